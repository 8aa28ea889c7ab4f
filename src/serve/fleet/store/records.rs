//! The records of all machines, as JetStream keeps them.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_stream::StreamExt;

use super::{FleetStore, FleetStoreFailure};
use crate::config::{RecordKind, records_stream};
use crate::connect::{causes, filled};
use crate::record::format::parse_rfc3339;

/// A record in its envelope.
#[derive(Deserialize)]
struct EventEnvelope<'a> {
    /// When it was published.
    time: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl FleetStore {
    /// Gives `take` the last record of each kind of each stream, and then the new ones, with the time at which they were published,
    /// milliseconds since 1970-01-01 UTC. Ends with a failure.
    pub async fn records(&self, mut take: impl FnMut(RecordKind, &str, i64)) -> FleetStoreFailure {
        let failed = |text: String| FleetStoreFailure(format!("{}: cannot read the records: {text}", self.host));
        let config = OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            filter_subject: filled(&self.subject, "*", "*", "*"),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ..OrderedConfig::default()
        };
        let opened = async {
            let stream = self.context.get_stream(records_stream(&self.name)).await.map_err(|e| causes(&e))?;
            let consumer = stream.create_consumer(config).await.map_err(|e| causes(&e))?;
            consumer.messages().await.map_err(|e| causes(&e))
        };
        let mut messages = match opened.await {
            Ok(messages) => messages,
            Err(text) => return failed(text),
        };
        loop {
            let message = match messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(e)) => return failed(causes(&e)),
                None => return failed("the server has ended them".into()),
            };
            let kind = message.subject.rsplit('.').next();
            let kind = kind.and_then(|kind| RecordKind::ALL.into_iter().find(|known| known.as_str() == kind));
            let Some(kind) = kind else { continue };
            // Other programs may publish there.
            let Ok(EventEnvelope { time, data }) = serde_json::from_slice(&message.payload) else { continue };
            if let Ok(unix_ns) = parse_rfc3339(time) {
                take(kind, data.get(), unix_ns.div_euclid(1_000_000));
            }
        }
    }
}
