//! Stores what other machines publish.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use crate::fleet::{FleetStore, NodeName, StreamId};
use crate::hub::{Archive, FleetRecord, FleetSource};

/// The pause after the records could not be read or stored.
const RETRY: Duration = Duration::from_secs(2);

/// Streams that were removed from the fleet. Their machine publishes their end after that. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct RemovedStreams(Arc<Mutex<BTreeSet<StreamId>>>);

impl RemovedStreams {
    /// The stream was removed, or is there again.
    pub(super) fn set(&self, stream: &StreamId, is_removed: bool) {
        let mut removed = self.0.lock();
        if is_removed {
            removed.insert(stream.clone());
        } else {
            removed.remove(stream);
        }
    }

    /// Whether a record belongs to a stream that is there.
    fn admits(&self, record: &FleetRecord) -> bool {
        #[derive(Deserialize)]
        struct OfStream {
            stream: String,
        }
        let removed = self.0.lock();
        let is_removed = |of: &OfStream| removed.contains(of.stream.as_str());
        removed.is_empty() || !serde_json::from_str(&record.json).is_ok_and(|of| is_removed(&of))
    }
}

/// Stores the records that the archive lacks, and then the new ones, until it is aborted.
pub(super) fn follow(
    store: FleetStore,
    archive: Arc<dyn Archive>,
    node: NodeName,
    removed: RemovedStreams,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let text = match read(&store, &archive, &node, &removed).await {
                Ok(()) => "they could not be stored".to_owned(),
                Err(text) => text,
            };
            tracing::debug!("fleet: the history of other machines: {text}");
            sleep(RETRY).await;
        }
    })
}

/// Returns `Ok` when records could not be stored.
async fn read(
    store: &FleetStore,
    archive: &Arc<dyn Archive>,
    node: &NodeName,
    removed: &RemovedStreams,
) -> Result<(), String> {
    let created_ns = store.records_created().await.map_err(|e| e.to_string())?;
    let source = FleetSource { node: node.clone(), created_ns };
    let (of, asked) = (archive.clone(), source.clone());
    let position = spawn_blocking(move || of.fleet_position(&asked)).await.map_err(|e| e.to_string())?;
    let mut records = store.records_after(position.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
    loop {
        let mut next = records.next().await.map_err(|e| e.to_string())?;
        // Without a pause between this and the next line: the archive forgets a removed stream after all of its records here.
        next.retain(|record| removed.admits(record));
        if archive.keep_fleet(&source, next).await.is_err() {
            return Ok(());
        }
    }
}
