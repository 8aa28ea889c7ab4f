//! The form in which every sink delivers a record: a CloudEvent 1.0 in JSON.

use serde::Serialize;
use serde_json::value::RawValue;

use super::spool::Spooled;
use crate::config::RecordKind;
use crate::record::format::rfc3339;

/// Media type of an event.
pub(super) const MEDIA_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// A record as it is delivered.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    /// Number in the spool.
    pub number: i64,
    /// The same for every delivery of this record, and for no other record. Has no full stop.
    pub id: String,
    pub stream: String,
    pub kind: RecordKind,
    /// The event.
    pub json: String,
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: String,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    /// Of the spool. The extension "sequence": text whose order is the order of the events.
    sequence: String,
    data: &'a RawValue,
}

impl Envelope {
    /// # Errors
    /// If the record is not JSON.
    pub fn new(record: Spooled, instance: &str, spool: &str) -> serde_json::Result<Self> {
        let Spooled { number, stream, kind, unix_ns, json } = record;
        let id = format!("{spool}-{number}");
        let event = CloudEvent {
            specversion: "1.0",
            id: &id,
            source: format!("/touchline/{instance}/streams/{stream}"),
            r#type: format!("touchline.{}", kind.as_str()),
            subject: &stream,
            time: rfc3339(unix_ns),
            datacontenttype: "application/json",
            sequence: format!("{number:019}"),
            data: serde_json::from_str(&json)?,
        };
        let json = serde_json::to_string(&event)?;
        Ok(Self { number, id, stream, kind, json })
    }
}
