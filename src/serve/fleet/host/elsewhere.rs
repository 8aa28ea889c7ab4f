//! What other machines watch: who does is in the bucket, and what they see in the records.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::fleet::{FleetNode, FleetStore, NodeName, NodeRecord, StreamId};
use crate::hub::{ElsewhereInfo, Hub};
use touchline_core::redact;

/// The pause after the records could not be read, or have ended.
const RETRY: Duration = Duration::from_secs(2);

/// Reads the last records of all streams, and then the new ones, until it is aborted.
pub(super) fn follow(store: FleetStore, hub: Hub) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let failure = store.records(|kind, json, at_ms| hub.elsewhere_record(kind, json, at_ms)).await;
            tracing::debug!("fleet: the records of other machines: {failure}");
            sleep(RETRY).await;
        }
    })
}

/// The streams that machines other than `me` watch.
pub(super) fn streams(node: &FleetNode, me: &NodeName) -> Vec<ElsewhereInfo> {
    let page = |name: &NodeName| {
        let found: Option<(&NodeName, &NodeRecord)> = node.nodes().find(|(known, _)| *known == name);
        found.and_then(|(_, record)| record.page.as_deref().map(Into::into))
    };
    let streams = node.streams().filter_map(|(id, stream, lease)| {
        let lease = lease?;
        let owner = lease.owner.as_ref().filter(|owner| owner.node != *me && node.is_live(owner))?;
        let text = |key: &str| stream.settings[key].as_str();
        Some(ElsewhereInfo {
            id: StreamId::clone(id),
            node: owner.node.clone(),
            page: page(&owner.node),
            epoch: lease.epoch,
            uri: redact::uri(text("uri").unwrap_or_default()),
            label: text("label").map(str::to_owned),
            group: text("group").map(Into::into),
        })
    });
    streams.collect()
}
