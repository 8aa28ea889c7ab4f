//! Streams that other machines of the fleet watch, as their records say.
//!
//! A machine shows them beside its own, without pictures. Records of an epoch that is over are dropped, and those that arrive twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::history::{HistoryEntry, HistoryOutcome};
use super::overview::{EstimateView, SpanView, spans};
use super::{Feed, FeedKind, HISTORY_SECONDS, Hub, RecordKind, StreamName, push_bounded};
use crate::record::SERIALISES;
use touchline_core::clip::GapReason;
use touchline_core::labels::{ClassSet, Modality};
use touchline_core::time::RunId;

/// A stream that another machine watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElsewhereInfo {
    /// Its id.
    pub id: Arc<str>,
    /// The machine.
    pub node: Arc<str>,
    /// Address of the machine's page, if it has given one.
    pub page: Option<Arc<str>>,
    /// The epoch of its lease.
    pub epoch: u64,
    /// Where it comes from, without secrets.
    pub uri: String,
    /// Display name.
    pub label: Option<String>,
    /// The streams that a wall shows together.
    pub group: Option<Arc<str>>,
}

/// A stream that another machine of the fleet watches.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ElsewhereStream")]
pub(crate) struct ElsewhereView<'a> {
    id: &'a str,
    /// The machine that watches it.
    node: &'a str,
    /// Address of the machine's page; null if it has given none.
    page: Option<&'a str>,
    /// How often the stream was taken over.
    epoch: u64,
    /// Redacted.
    uri: &'a str,
    settings: ElsewhereSettings<'a>,
    #[schemars(extend("const" = "live"))]
    pace: &'static str,
    /// The keys of its last record of the kind state.
    #[serde(flatten)]
    #[schemars(skip)]
    state: &'a Value,
    /// When the state began.
    #[schemars(extend("format" = "date-time"))]
    since: &'a str,
    /// Start of the current outage; null while the stream plays or has not been opened yet.
    #[schemars(extend("format" = "date-time"))]
    down_since: Option<&'a str>,
    /// The conditions of the signal that last.
    #[schemars(with = "Vec<Value>")]
    signal: &'a [Value],
    /// What is expected on air now; null if that is not known.
    #[schemars(with = "Option<Value>")]
    expectation: Option<&'a Value>,
    /// The answer of its last second.
    #[schemars(with = "Option<EstimateView>")]
    estimate: Option<&'a RawValue>,
    /// The last ten minutes, oldest first, as far as this machine has seen them.
    spans: Vec<SpanView<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct ElsewhereSettings<'a> {
    label: Option<&'a str>,
    group: Option<&'a str>,
}

/// The state of such a stream.
struct Elsewhere {
    info: ElsewhereInfo,
    /// Run and index of the last second.
    last: Option<(u64, u64, u64)>,
    state: Value,
    since: String,
    down_since: Option<String>,
    signals: Vec<Value>,
    expectation: Option<Value>,
    /// The classes on air.
    on_air: Vec<String>,
    estimate: Option<Arc<str>>,
    history: VecDeque<HistoryEntry>,
    /// Number of its last item in the feed.
    fed: u64,
}

/// Kinds of records that are kept until it is known who watches their stream.
const EARLY_KINDS: [RecordKind; 2] = [RecordKind::State, RecordKind::Second];

/// Streams of which records are kept that arrived before the fleet said who watches them.
const EARLY_MAX: usize = 20_000;

/// The last record of a kind, and when it was published.
type EarlyRecord = (Arc<str>, i64);

/// The streams that other machines watch, by id.
#[derive(Default)]
pub(super) struct ElsewhereList(Mutex<ElsewhereState>);

#[derive(Default)]
struct ElsewhereState {
    streams: BTreeMap<Arc<str>, Elsewhere>,
    /// The last state and second of streams that another machine watches than the one that is known: the records and the fleet's bucket
    /// arrive in no order.
    early: BTreeMap<Arc<str>, [Option<EarlyRecord>; 2]>,
}

impl Elsewhere {
    fn new(info: ElsewhereInfo, now: String) -> Self {
        Self {
            info,
            last: None,
            state: json!({ "state": "connecting", "kind": null, "cause": null, "advice": null, "tracks": null }),
            since: now,
            down_since: None,
            signals: Vec::new(),
            expectation: None,
            on_air: Vec::new(),
            estimate: None,
            history: VecDeque::new(),
            fed: 0,
        }
    }

    fn view<'a>(&'a self, classes: &'a ClassSet) -> ElsewhereView<'a> {
        let ElsewhereInfo { id, node, page, epoch, uri, label, group } = &self.info;
        ElsewhereView {
            id,
            node,
            page: page.as_deref(),
            epoch: *epoch,
            uri,
            settings: ElsewhereSettings { label: label.as_deref(), group: group.as_deref() },
            pace: "live",
            state: &self.state,
            since: &self.since,
            down_since: self.down_since.as_deref(),
            signal: &self.signals,
            expectation: self.expectation.as_ref(),
            estimate: self.estimate.as_deref().and_then(super::view::raw),
            spans: spans(&self.history, classes),
        }
    }

    fn feed(&mut self, feed: &Feed, kind: FeedKind, json: Arc<str>) {
        self.fed = feed.push_elsewhere(self.info.id.clone(), self.info.group.clone(), kind, json);
    }

    /// Whether a record counts: not of an epoch that is over, and not of a second that was there.
    fn accepts(&mut self, kind: RecordKind, record: &Value) -> bool {
        let number = |key: &str| record[key].as_u64();
        let Some(epoch) = number("epoch").filter(|epoch| *epoch >= self.info.epoch) else { return false };
        self.info.epoch = epoch;
        if !matches!(kind, RecordKind::Second | RecordKind::Gap) {
            return true;
        }
        let (Some(run), Some(index)) = (number("run"), number("index")) else { return false };
        let place = (epoch, run, index);
        // A lost span has a run of its own, before that of the seconds that it precedes.
        let is_new = self.last.is_none_or(|last| place > last) || record["reason"] == GapReason::NodeLost.as_str();
        self.last = self.last.max(Some(place));
        is_new
    }

    fn take(&mut self, kind: RecordKind, record: &Value, at_ms: i64, classes: &ClassSet) {
        let text = |key: &str| record[key].as_str().map(str::to_owned);
        match kind {
            RecordKind::Second | RecordKind::Gap => self.second(record, at_ms, classes),
            RecordKind::Event => {
                if let Some(class) = text("class") {
                    self.on_air.retain(|other| *other != class);
                    if record["kind"] == "onset" {
                        self.on_air.push(class);
                    }
                }
            }
            RecordKind::State => {
                let keys = ["state", "kind", "cause", "advice", "attempt", "retry_in_ms", "tracks"];
                let now = text("at").unwrap_or_default();
                let was_playing = self.state["state"] == "playing";
                self.state = keys.iter().map(|key| ((*key).to_owned(), record[*key].clone())).collect();
                self.since.clone_from(&now);
                if self.state["state"] == "playing" {
                    self.down_since = None;
                } else if self.down_since.is_none() && (was_playing || !self.state["kind"].is_null()) {
                    self.down_since = Some(now);
                }
            }
            RecordKind::Incident if !record["signal"].is_null() => {
                self.signals.retain(|known| known["signal"] != record["signal"]);
                if record["incident"] == "signal-began" {
                    self.signals.push(json!({ "signal": record["signal"], "since": record["since"] }));
                }
            }
            _ => {}
        }
    }

    fn second(&mut self, record: &Value, at_ms: i64, classes: &ClassSet) {
        let window = &record["window"];
        let class = |value: &Value| value.as_str().and_then(|name| classes.id(name));
        let mean = |name: &str| window["mean"][name].as_f64();
        let label = window["label"].as_str();
        let unknown = window["unknown"] == true;
        let reason = GapReason::ALL.into_iter().find(|reason| record["reason"] == reason.as_str());
        let by = Modality::ALL.into_iter().find(|modality| record["decided_by"] == modality.as_str());
        let verdict = match (reason, class(&record["label"]), by) {
            (Some(reason), ..) => HistoryOutcome::Gap(reason),
            (None, Some(label), Some(by)) => {
                let probability = record["probability"].as_f64().unwrap_or_default() as f32;
                HistoryOutcome::Decided { label, probability, by }
            }
            // Of a program with other classes.
            _ => return,
        };
        if self.state["state"] == "connecting" {
            // The record of its state is too old to be kept.
            self.state["state"] = "playing".into();
            self.since = crate::record::format::rfc3339(at_ms.saturating_mul(1_000_000));
        }
        let run = RunId(record["run"].as_u64().and_then(|run| u32::try_from(run).ok()).unwrap_or_default());
        let index = record["index"].as_u64().unwrap_or_default();
        let of_window = label.and_then(|name| Some((classes.id(name)?, mean(name).unwrap_or_default() as f32)));
        let entry = HistoryEntry { run, index, at_ms, verdict, window: of_window, unknown };
        push_bounded(&mut self.history, entry, HISTORY_SECONDS);
        let mut on_air: Vec<(&String, f64)> =
            self.on_air.iter().map(|name| (name, mean(name).unwrap_or_default())).collect();
        on_air.sort_by(|a, b| b.1.total_cmp(&a.1));
        let on_air: Vec<Value> =
            on_air.into_iter().map(|(label, mean)| json!({ "label": label, "probability": mean })).collect();
        let estimate = json!({
            "stream": &*self.info.id,
            "run": run,
            "index": index,
            "at_ms": at_ms,
            "label": label,
            "probability": label.and_then(mean),
            "unknown": unknown,
            "on_air": on_air,
            "reason": record["reason"],
            "signal": record.get("signal").cloned().unwrap_or_else(|| json!([])),
            "latency_ms": record["latency_ms"],
            "backlog": record["backlog"],
        });
        self.estimate = Some(estimate.to_string().into());
    }
}

impl Hub {
    /// Sets the streams that other machines of the fleet watch. Those that are known keep their state.
    pub fn set_elsewhere(&self, streams: Vec<ElsewhereInfo>) {
        let (feed, classes) = (&self.shared.feed, &self.shared.classes);
        let now = crate::record::format::rfc3339(self.shared.clock.unix_ns());
        let mut list = self.shared.elsewhere.0.lock();
        let ElsewhereState { streams: known, early } = &mut *list;
        let mut old = std::mem::take(known);
        for info in streams {
            let id = info.id.clone();
            let mut stream = match old.remove(&id) {
                Some(stream) if stream.info == info => {
                    known.insert(id, stream);
                    continue;
                }
                // Another machine begins with a state of its own.
                Some(stream) if stream.info.node == info.node => {
                    let epoch = stream.info.epoch.max(info.epoch);
                    Elsewhere { info: ElsewhereInfo { epoch, ..info }, ..stream }
                }
                Some(stream) => {
                    let Elsewhere { history, last, .. } = stream;
                    Elsewhere { history, last, ..Elsewhere::new(info, now.clone()) }
                }
                None => Elsewhere::new(info, now.clone()),
            };
            for (kind, (json, at_ms)) in EARLY_KINDS
                .into_iter()
                .zip(early.remove(&id).into_iter().flatten())
                .filter_map(|(kind, record)| Some((kind, record?)))
            {
                if let Ok(record) = serde_json::from_str::<Value>(&json)
                    && record["node"] == *stream.info.node
                    && stream.accepts(kind, &record)
                {
                    stream.take(kind, &record, at_ms, classes);
                }
            }
            let json = crate::record::to_json(&stream.view(classes));
            stream.feed(feed, FeedKind::Elsewhere, json.into());
            known.insert(id, stream);
        }
        for (id, mut stream) in old {
            let json = json!({ "id": &*id, "node": null }).to_string();
            stream.feed(feed, FeedKind::Elsewhere, json.into());
        }
    }

    /// Takes a record of a stream that another machine watches, which was published at `at_ms`, milliseconds since 1970-01-01 UTC. Others
    /// are ignored.
    pub fn elsewhere_record(&self, kind: RecordKind, json: &str, at_ms: i64) {
        let Ok(record) = serde_json::from_str::<Value>(json) else { return };
        let (Some(id), Some(node)) = (record["stream"].as_str(), record["node"].as_str()) else { return };
        let (feed, classes) = (&self.shared.feed, &self.shared.classes);
        // The machine has handed it over: the fleet says who watches it.
        if kind == RecordKind::State && record["state"] == "removed" {
            return;
        }
        let mut list = self.shared.elsewhere.0.lock();
        let ElsewhereState { streams, early } = &mut *list;
        let Some(stream) = streams.get_mut(id).filter(|stream| *stream.info.node == *node) else {
            if let Some(place) = EARLY_KINDS.iter().position(|known| *known == kind)
                && (early.len() < EARLY_MAX || early.contains_key(id))
            {
                early.entry(id.into()).or_default()[place] = Some((json.into(), at_ms));
            }
            return;
        };
        if !stream.accepts(kind, &record) {
            return;
        }
        stream.take(kind, &record, at_ms, classes);
        stream.feed(feed, FeedKind::Record(kind), json.into());
        if let Some(estimate) = stream.estimate.clone().filter(|_| matches!(kind, RecordKind::Second | RecordKind::Gap))
        {
            stream.feed(feed, FeedKind::Estimate, estimate);
        }
    }

    /// The streams that other machines watch and `each` selects, which gets their ids, groups and the numbers of their last items.
    pub(super) fn elsewhere(&self, mut each: impl FnMut(&Arc<str>, Option<&str>, u64) -> bool) -> Vec<Box<RawValue>> {
        let list = self.shared.elsewhere.0.lock();
        let selected =
            list.streams.values().filter(|stream| each(&stream.info.id, stream.info.group.as_deref(), stream.fed));
        selected.map(|stream| to_raw_value(&stream.view(&self.shared.classes)).expect(SERIALISES)).collect()
    }

    /// The names of the streams that other machines watch.
    pub fn names_elsewhere(&self) -> Vec<StreamName> {
        let list = self.shared.elsewhere.0.lock();
        let own = self.shared.streams.read();
        // While a stream moves it may be in both lists.
        let others = list.streams.values().filter(|stream| own.iter().all(|own| own.id != stream.info.id));
        let name = |ElsewhereInfo { id, label, group, .. }: &ElsewhereInfo| {
            let (label, group) = (label.clone(), group.as_deref().map(Into::into));
            StreamName { id: id.to_string(), label, group }
        };
        others.map(|stream| name(&stream.info)).collect()
    }

    /// The machine that watches stream `id`, and the address of its page, if another one does.
    pub fn watched_by(&self, id: &str) -> Option<(Arc<str>, Option<Arc<str>>)> {
        let list = self.shared.elsewhere.0.lock();
        list.streams.get(id).map(|stream| (stream.info.node.clone(), stream.info.page.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{FeedFilter, StreamInfo};
    use crate::testing;
    use touchline_core::clock::ManualClock;
    use touchline_core::item::Pace;

    fn info(node: &str, epoch: u64) -> ElsewhereInfo {
        ElsewhereInfo {
            id: "court".into(),
            node: node.into(),
            page: Some("http://b:8080/".into()),
            epoch,
            uri: "rtsp://h".into(),
            label: Some("Court".into()),
            group: None,
        }
    }

    fn second(node: &str, epoch: u64, index: u64, label: &str) -> String {
        json!({
            "type": "second", "stream": "court", "node": node, "epoch": epoch, "run": 0, "index": index, "label": label, "probability": 0.9,
            "decided_by": "rgb", "backlog": 0, "latency_ms": 5.0,
            "window": { "label": label, "mean": { label: 0.8 }, "seconds": 1, "gaps": 0 },
        })
        .to_string()
    }

    fn rows(hub: &Hub) -> Vec<Value> {
        let filter = FeedFilter { fleet: true, ..FeedFilter::default() };
        let overview: Value = serde_json::from_str(&hub.overview_json(&filter)).unwrap();
        overview["elsewhere"].as_array().unwrap().clone()
    }

    #[test]
    fn streams_of_other_machines_are_shown_as_their_records_say() {
        let hub = testing::hub(Arc::new(ManualClock::default()));
        hub.elsewhere_record(RecordKind::Second, &second("b", 1, 0, "tennis"), 1000);
        assert!(rows(&hub).is_empty(), "nobody watches it");
        hub.set_elsewhere(vec![info("b", 3)]);
        assert_eq!(rows(&hub)[0]["estimate"], Value::Null, "of an epoch that is over");
        let state = json!({ "type": "state", "stream": "court", "node": "b", "epoch": 3, "state": "playing", "at": "2024-05-01T10:00:00Z" });
        hub.elsewhere_record(RecordKind::State, &state.to_string(), 900);
        let onset =
            json!({ "type": "event", "stream": "court", "node": "b", "epoch": 3, "kind": "onset", "class": "tennis" });
        hub.elsewhere_record(RecordKind::Event, &onset.to_string(), 950);
        for (node, epoch, index, label) in [
            ("b", 3, 5, "tennis"),
            // Twice, of an epoch that is over, and of a machine that does not watch it.
            ("b", 3, 5, "soccer"),
            ("b", 3, 4, "soccer"),
            ("b", 2, 9, "soccer"),
            ("c", 4, 9, "soccer"),
        ] {
            hub.elsewhere_record(RecordKind::Second, &second(node, epoch, index, label), 1000);
        }
        let row = rows(&hub)[0].clone();
        assert_eq!(
            (&row["node"], &row["page"], &row["state"]),
            (&json!("b"), &json!("http://b:8080/"), &json!("playing"))
        );
        assert_eq!((&row["settings"]["label"], &row["since"]), (&json!("Court"), &json!("2024-05-01T10:00:00Z")));
        assert_eq!(row["estimate"]["on_air"], json!([{ "label": "tennis", "probability": 0.8 }]));
        assert_eq!((&row["estimate"]["index"], row["spans"].as_array().unwrap().len()), (&json!(5), 1));
        assert_eq!(hub.watched_by("court"), Some(("b".into(), Some("http://b:8080/".into()))));
        // Another machine has it, whose second arrived first, and then nobody.
        hub.set_elsewhere(vec![info("c", 4)]);
        assert_eq!((&rows(&hub)[0]["node"], &rows(&hub)[0]["state"]), (&json!("c"), &json!("playing")));
        assert_eq!(rows(&hub)[0]["estimate"]["index"], 9);
        hub.set_elsewhere(Vec::new());
        assert!(rows(&hub).is_empty() && hub.watched_by("court").is_none());
    }

    #[test]
    fn only_who_asks_for_the_fleet_gets_it() {
        let hub = testing::hub(Arc::new(ManualClock::default()));
        let (mut own, mut all) = {
            let fleet = |fleet| FeedFilter { fleet, ..FeedFilter::default() };
            (hub.follow(fleet(false)).2, hub.follow(fleet(true)).2)
        };
        hub.set_elsewhere(vec![info("b", 1)]);
        hub.elsewhere_record(RecordKind::Second, &second("b", 1, 0, "tennis"), 1000);
        hub.add_stream(StreamInfo { id: "own".into(), uri: "testsrc://".into(), pace: Pace::Live }).unwrap();
        let kinds = |cursor: &mut _| -> Vec<&str> {
            hub.read_feed(cursor).unwrap().items.iter().map(|item| item.kind.as_str()).collect()
        };
        assert_eq!(kinds(&mut own), ["stream"]);
        assert_eq!(kinds(&mut all), ["elsewhere", "second", "estimate", "stream"]);
        let overview: Value = serde_json::from_str(&hub.overview_json(&FeedFilter::default())).unwrap();
        assert_eq!((overview["streams"].as_array().map(Vec::len), overview.get("elsewhere")), (Some(1), None));
    }
}
