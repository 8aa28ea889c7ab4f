//! The records of all machines, as JetStream keeps them.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::{Ordered, OrderedConfig};
use async_nats::jetstream::stream::Stream;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

use super::{FleetStore, FleetStoreFailure, REQUEST_LIMIT};
use crate::config::{RecordKind, records_stream};
use crate::connect::{causes, filled};
use crate::hub::FleetRecord;
use crate::record::format::parse_rfc3339;

/// Records that are taken together, at most: some milliseconds of the store's thread.
const TOGETHER: usize = 256;

/// How long records are gathered: each time something other than seconds is among them, the disk is written.
const GATHER: Duration = Duration::from_secs(1);

/// A record in its envelope.
#[derive(Deserialize)]
struct EventEnvelope<'a> {
    /// When it was published.
    time: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The kind of a record, when it was published in milliseconds since 1970-01-01 UTC, and the record. Others may publish there too: `None`.
fn record_of(message: &Message) -> Option<(RecordKind, i64, &str)> {
    let kind = message.subject.rsplit('.').next()?;
    let kind = RecordKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    let EventEnvelope { time, data } = serde_json::from_slice(&message.payload).ok()?;
    Some((kind, parse_rfc3339(time).ok()?.div_euclid(1_000_000), data.get()))
}

/// The records of a fleet in the order of their numbers.
pub struct FleetRecords {
    messages: Ordered,
    place: String,
}

impl FleetRecords {
    /// The next records. Waits for one.
    ///
    /// # Errors
    /// Names the reason why they cannot be read.
    pub async fn next(&mut self) -> Result<Vec<FleetRecord>, FleetStoreFailure> {
        let failed = |text: String| FleetStoreFailure(format!("{}: cannot read the records: {text}", self.place));
        let mut records = Vec::new();
        let gathered = sleep(GATHER);
        tokio::pin!(gathered);
        while records.len() < TOGETHER {
            let message = tokio::select! {
                biased;
                message = self.messages.next() => message,
                () = &mut gathered, if !records.is_empty() => break,
            };
            let message = message.ok_or_else(|| failed("the server has ended them".into()))?;
            let message = message.map_err(|e| failed(causes(&e)))?;
            let sequence = message.info().map_err(|e| failed(e.to_string()))?.stream_sequence;
            if let Some((kind, at_ms, json)) = record_of(&message) {
                records.push(FleetRecord { sequence, kind, at_ms, json: json.to_owned() });
            }
        }
        Ok(records)
    }
}

impl FleetStore {
    /// When the JetStream stream of the records was created, nanoseconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// If there is none yet, or no answer.
    pub async fn records_created(&self) -> Result<i64, FleetStoreFailure> {
        let stream = self.records_stream().await?;
        let created_ns = stream.cached_info().created.unix_timestamp_nanos();
        Ok(i64::try_from(created_ns).unwrap_or(0))
    }

    /// The records after the number `after`, as far as JetStream still has them, and then the new ones.
    ///
    /// # Errors
    /// As [`FleetStore::records_created`].
    pub async fn records_after(&self, after: u64) -> Result<FleetRecords, FleetStoreFailure> {
        let policy = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
        Ok(FleetRecords { messages: self.messages(policy).await?, place: self.host.to_string() })
    }

    async fn records_stream(&self) -> Result<Stream, FleetStoreFailure> {
        let found = timeout(REQUEST_LIMIT, self.context.get_stream(records_stream(&self.name))).await;
        let cause = match found {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => causes(&e),
            Err(_) => "no answer".to_owned(),
        };
        Err(FleetStoreFailure(format!("{}: cannot read the records: {cause}", self.host)))
    }

    async fn messages(&self, deliver_policy: DeliverPolicy) -> Result<Ordered, FleetStoreFailure> {
        let failed = |text: String| FleetStoreFailure(format!("{}: cannot read the records: {text}", self.host));
        let config = OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            filter_subject: filled(&self.subject, "*", "*", "*"),
            deliver_policy,
            ..OrderedConfig::default()
        };
        let consumer = self.records_stream().await?.create_consumer(config).await;
        consumer.map_err(|e| failed(causes(&e)))?.messages().await.map_err(|e| failed(causes(&e)))
    }

    /// Gives `take` the last record of each kind of each stream, and then the new ones, with the time at which they were published,
    /// milliseconds since 1970-01-01 UTC. Ends with a failure.
    pub async fn records(&self, mut take: impl FnMut(RecordKind, &str, i64)) -> FleetStoreFailure {
        let failed = |text: String| FleetStoreFailure(format!("{}: cannot read the records: {text}", self.host));
        let mut messages = match self.messages(DeliverPolicy::LastPerSubject).await {
            Ok(messages) => messages,
            Err(e) => return e,
        };
        loop {
            let message = match messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(e)) => return failed(causes(&e)),
                None => return failed("the server has ended them".into()),
            };
            if let Some((kind, at_ms, json)) = record_of(&message) {
                take(kind, json, at_ms);
            }
        }
    }
}
