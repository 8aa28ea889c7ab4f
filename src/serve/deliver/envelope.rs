//! The form in which every sink delivers a record: a CloudEvent 1.0 in JSON.

use serde::{Deserialize, Serialize};
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

/// What identifies a second or a gap of a fleet. An epoch belongs to one node, so these are the same in every delivery, from each spool.
#[derive(Deserialize)]
struct OfFleet {
    epoch: u64,
    run: u32,
    index: u64,
}

impl OfFleet {
    /// `None` for other records.
    fn read(kind: RecordKind, json: &str) -> Option<Self> {
        let may_be = matches!(kind, RecordKind::Second | RecordKind::Gap) && json.contains("\"epoch\":");
        may_be.then(|| serde_json::from_str(json).ok()).flatten()
    }

    fn id(&self, stream: &str) -> String {
        format!("{}-{}-{}-{}", stream.replace('.', "="), self.epoch, self.run, self.index)
    }
}

impl Envelope {
    /// # Errors
    /// If the record is not JSON.
    pub fn new(record: Spooled, instance: &str, spool: &str) -> serde_json::Result<Self> {
        let Spooled { number, stream, kind, unix_ns, json } = record;
        let id = OfFleet::read(kind, &json).map_or_else(|| format!("{spool}-{number}"), |of| of.id(&stream));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn id(kind: RecordKind, json: &str) -> String {
        let record = Spooled { number: 7, stream: "court.1".into(), kind, unix_ns: 0, json: json.into() };
        Envelope::new(record, "here", "5f").unwrap().id
    }

    #[test]
    fn seconds_of_a_fleet_have_an_id_that_does_not_depend_on_the_spool() {
        let second = r#"{"type":"second","run":2,"index":9,"epoch":4}"#;
        assert_eq!(id(RecordKind::Second, second), "court=1-4-2-9");
        assert_eq!(id(RecordKind::Gap, second), "court=1-4-2-9");
        assert_eq!(id(RecordKind::Event, second), "5f-7", "a second may have several events");
        assert_eq!(id(RecordKind::Second, r#"{"run":2,"index":9}"#), "5f-7");
    }
}
