use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::HistorySettings;
use crate::hub::{Archive, HistoryFilter, KeptSegment, KeptTime, RecordKind};
use crate::metrics::Metrics;
use crate::record::SegmentContent;
use crate::store::{Store, StoreThread};
use touchline_core::clock::ManualClock;
use touchline_core::time::{NANOS_PER_SECOND, RunId};

const ALL: HistorySettings = HistorySettings { keep_s: u64::MAX, seconds_s: u64::MAX, max_bytes: u64::MAX };

/// A store in a folder of its own, and its clock.
struct TestHistory {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl TestHistory {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("touchline.db")
    }

    fn open(&self, limits: HistorySettings) -> (Store, StoreThread) {
        let (store, thread, _) = Store::open(&self.path(), limits, Metrics::new(), self.clock.clone()).unwrap();
        (store, thread)
    }
}

/// A segment of run 0: seconds `first` to `last`, which began at as many seconds of wall time.
fn segment(content: SegmentContent, class: Option<&str>, first: u64, last: u64) -> KeptSegment {
    let json = format!("{{\"first\":{first},\"last\":{last}}}").into();
    let [began_ms, ended_ms] = [first, last + 1].map(|second| second as i64 * 1000);
    let class = class.map(Into::into);
    let (is_open, poster) = (false, None);
    let (epoch, node) = (0, None);
    KeptSegment { epoch, node, run: RunId(0), first, last, began_ms, ended_ms, content, class, is_open, json, poster }
}

fn tennis(first: u64, last: u64) -> KeptSegment {
    segment(SegmentContent::Class, Some("tennis"), first, last)
}

fn filter(from_s: i64, to_s: i64) -> HistoryFilter {
    HistoryFilter {
        streams: None,
        classes: None,
        kinds: None,
        from_ms: from_s * 1000,
        to_ms: to_s * 1000,
        after: None,
        newest_first: false,
        limit: 100,
    }
}

fn written(store: &Store) {
    assert!(store.flush(Duration::from_secs(60)));
}

/// First seconds of the segments of a filter.
fn firsts(store: &Store, filter: &HistoryFilter) -> Vec<u64> {
    let first = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap()["first"].as_u64().unwrap();
    store.segments(filter).unwrap().iter().map(|segment| first(&segment.json)).collect()
}

#[test]
fn segments_are_found_by_time_stream_class_and_content_page_by_page() {
    let kept = TestHistory::new();
    let (store, _thread) = kept.open(ALL);
    for n in 0..10 {
        store.keep_segment("court", tennis(n * 100, n * 100 + 79));
        store.keep_segment("court", segment(SegmentContent::Unknown, None, n * 100 + 80, n * 100 + 99));
    }
    store.keep_segment("pitch", segment(SegmentContent::Class, Some("soccer"), 50, 500));
    written(&store);
    assert_eq!(firsts(&store, &filter(0, 1000)).len(), 21);
    assert_eq!(firsts(&store, &filter(180, 250)), [50, 180, 200], "what is on air at the begin belongs to it");
    assert_eq!(firsts(&store, &filter(179, 180)), [50, 100], "and what begins at the end does not");
    let of = |text: &str| Some(vec![text.to_owned()]);
    assert_eq!(firsts(&store, &HistoryFilter { streams: of("pitch"), ..filter(0, 1000) }), [50]);
    assert_eq!(firsts(&store, &HistoryFilter { streams: Some(Vec::new()), ..filter(0, 1000) }), [0; 0]);
    assert_eq!(firsts(&store, &HistoryFilter { classes: of("soccer"), ..filter(0, 1000) }), [50]);
    assert_eq!(firsts(&store, &HistoryFilter { kinds: of("unknown"), ..filter(0, 300) }), [80, 180, 280]);
    for newest_first in [false, true] {
        let whole = HistoryFilter { newest_first, ..filter(0, 1000) };
        let (mut page, mut paged) = (HistoryFilter { limit: 4, ..whole.clone() }, Vec::new());
        loop {
            let found = store.segments(&page).unwrap();
            let Some(last) = found.last() else { break };
            page.after = Some(last.at);
            paged.extend(found);
        }
        assert_eq!(paged, store.segments(&whole).unwrap());
        assert_eq!((paged.len(), paged.is_sorted_by_key(|segment| segment.at.at_ms)), (21, !newest_first));
    }
}

#[test]
fn a_segment_replaces_what_was_known_of_it() {
    let kept = TestHistory::new();
    let (store, thread) = kept.open(ALL);
    for last in [59, 119] {
        store.keep_segment("court", KeptSegment { is_open: true, ..tennis(0, last) });
    }
    // Unknown after it, then a class that turns out to be unknown: both are one segment.
    store.keep_segment("court", segment(SegmentContent::Unknown, None, 120, 139));
    store.keep_segment("court", KeptSegment { is_open: true, ..tennis(140, 159) });
    store.keep_segment("other", tennis(140, 159));
    written(&store);
    let found = |store: &Store| {
        let found = store.segments(&filter(0, 1000)).unwrap();
        found.into_iter().map(|segment| (segment.stream, segment.is_open, segment.json)).collect::<Vec<_>>()
    };
    let row = |stream: &str, is_open: bool, first: u64, last: u64| {
        (stream.to_owned(), is_open, format!("{{\"first\":{first},\"last\":{last}}}"))
    };
    let before = [row("court", true, 0, 119), row("court", false, 120, 139), row("court", true, 140, 159)];
    assert_eq!(found(&store)[..3], before);
    store.keep_segment("court", segment(SegmentContent::Unknown, None, 120, 199));
    drop((store, thread));
    let (store, _thread) = kept.open(ALL);
    let after = [row("court", false, 0, 119), row("court", false, 120, 199), row("other", false, 140, 159)];
    assert_eq!(found(&store), after, "what was open at the end of the program is closed");
    store.forget("court");
    written(&store);
    assert_eq!(found(&store), after[2..]);
}

#[test]
fn times_are_added_up_within_their_bounds() {
    let kept = TestHistory::new();
    let (store, _thread) = kept.open(ALL);
    store.keep_segment("court", tennis(0, 99));
    store.keep_segment("court", segment(SegmentContent::NoProgramme, None, 100, 149));
    store.keep_segment("court", tennis(150, 299));
    written(&store);
    let time = |from_s: i64, to_s: i64| KeptTime { from_ms: from_s * 1000, to_ms: to_s * 1000 };
    let found = store.times(&[time(50, 200), time(200, 1000), time(5000, 6000)]).unwrap();
    let of = |at: usize| found[at].iter().map(|t| (t.content.as_str(), t.class.as_deref(), t.ms)).collect::<Vec<_>>();
    assert_eq!(of(0), [("class", Some("tennis"), 100_000), ("no-programme", None, 50_000)]);
    assert_eq!(of(1), [("class", Some("tennis"), 100_000)]);
    assert_eq!(of(2), []);
    assert_eq!(store.first_times().unwrap()["court"], 0);
}

#[test]
fn records_are_found_by_time_type_and_class() {
    let kept = TestHistory::new();
    let (store, _thread) = kept.open(ALL);
    for n in 0..50_i64 {
        let class = ["tennis", "soccer"][n as usize % 2];
        let event = format!("{{\"type\":\"event\",\"class\":\"{class}\",\"n\":{n}}}");
        store.keep("court", RecordKind::Event, &event.into(), n * 1000);
        store.keep("court", RecordKind::State, &format!("{{\"type\":\"state\",\"n\":{n}}}").into(), n * 1000);
    }
    written(&store);
    let count = |filter: HistoryFilter| store.records(&filter).unwrap().len();
    let of = |text: &str| Some(vec![text.to_owned()]);
    assert_eq!(count(filter(0, 50)), 100);
    assert_eq!(count(HistoryFilter { kinds: of("event"), ..filter(10, 20) }), 10);
    assert_eq!(count(HistoryFilter { kinds: of("event"), classes: of("soccer"), ..filter(10, 20) }), 5);
    let first = HistoryFilter { kinds: of("state"), newest_first: true, limit: 1, ..filter(0, 50) };
    assert_eq!(store.records(&first).unwrap()[0].json, "{\"type\":\"state\",\"n\":49}");
}

#[test]
fn old_rows_are_removed_by_age() {
    let kept = TestHistory::new();
    let limits = HistorySettings { keep_s: 1000, seconds_s: 300, max_bytes: u64::MAX };
    let (store, _thread) = kept.open(limits);
    kept.clock.advance(2000 * NANOS_PER_SECOND);
    for n in 0..2000 {
        store.keep_second("court", n * 1000, format!("{{\"index\":{n}}}"));
        if n % 100 == 0 {
            store.keep_segment("court", tennis(n as u64, n as u64 + 99));
            store.keep("court", RecordKind::Event, &"{}".into(), n * 1000);
            store.keep("court", RecordKind::State, &"{}".into(), 0);
            written(&store);
        }
    }
    // The bounds are checked from time to time.
    kept.clock.advance(61 * NANOS_PER_SECOND);
    store.keep("court", RecordKind::Event, &"{}".into(), 2_000_000);
    written(&store);
    let kinds = |kind: &str| HistoryFilter { kinds: Some(vec![kind.to_owned()]), ..filter(-1, 3000) };
    assert_eq!(firsts(&store, &filter(0, 3000)), [1000, 1100, 1200, 1300, 1400, 1500, 1600, 1700, 1800, 1900]);
    assert_eq!(store.records(&kinds("event")).unwrap().len(), 10);
    assert_eq!(store.records(&kinds("state")).unwrap().len(), 1, "the last state is for the next start");
    let seconds = String::from_utf8(store.seconds("court", KeptTime::ALL).unwrap()).unwrap();
    assert!(seconds.contains("{\"index\":1761}") && !seconds.contains("{\"index\":1739}"), "{}", &seconds[..40]);
}

#[test]
fn the_oldest_rows_are_removed_beyond_the_size() {
    let kept = TestHistory::new();
    let (store, thread) = kept.open(HistorySettings { max_bytes: 400_000, ..ALL });
    let long = "x".repeat(3000);
    for round in 0..12 {
        for n in 0..60_i64 {
            let at_ms = (round * 60 + n) * 1000;
            // Random letters do not compress.
            let noise: String = (0..200).map(|i| char::from(b'a' + ((at_ms / 7 + i * i * 31) % 26) as u8)).collect();
            store.keep_second("court", at_ms, format!("{{\"index\":{at_ms},\"noise\":\"{noise}\"}}"));
        }
        for n in 0..20 {
            store.keep("court", RecordKind::Event, &format!("{{\"n\":\"{round}.{n} {long}\"}}").into(), round * 60_000);
        }
        kept.clock.advance(61 * NANOS_PER_SECOND);
        written(&store);
    }
    let events = store.records(&filter(-1, 3000)).unwrap();
    assert!(!events.is_empty() && events.len() < 240, "{}", events.len());
    assert!(events.last().unwrap().json.contains("11.19"), "the newest stay");
    drop((store, thread));
    let size = std::fs::metadata(kept.path()).unwrap().len();
    assert!(size < 1_500_000, "{size}");
}

/// A file of version 4, which the program of that version wrote: a stream that was added, its records, and two minutes of seconds.
#[test]
fn a_file_of_version_4_keeps_its_contents() {
    let stored = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/store/v4.db");
    let kept = TestHistory::new();
    std::fs::copy(stored, kept.path()).unwrap();
    let (store, thread, contents) = Store::open(&kept.path(), ALL, Metrics::new(), kept.clock.clone()).unwrap();
    let restored = &contents.restored["court"];
    assert!(restored.run.is_some() && restored.state.as_ref().unwrap().contains("\"type\":\"state\""), "{contents:?}");
    assert!(!restored.events.is_empty(), "{contents:?}");
    let always = HistoryFilter { from_ms: i64::MIN + 1, to_ms: i64::MAX, ..filter(0, 0) };
    let records = store.records(&always).unwrap();
    assert!(records.iter().all(|record| record.at.at_ms > 1_700_000_000_000), "{records:?}");
    let class = HistoryFilter { classes: Some(vec!["other".to_owned()]), ..always.clone() };
    let events = store.records(&class).unwrap();
    assert!(!events.is_empty() && events.len() <= restored.events.len());
    let lines = |time: KeptTime| String::from_utf8(store.seconds("court", time).unwrap()).unwrap();
    let all = lines(KeptTime::ALL);
    assert!(all.lines().count() >= 60, "{all}");
    let at_ms = records[0].at.at_ms;
    let day = KeptTime { from_ms: at_ms - 3_600_000, to_ms: at_ms + 3_600_000 };
    assert_eq!(lines(day), all, "its seconds have their time");
    assert_eq!(lines(KeptTime { from_ms: 0, to_ms: 1000 }), "");
    // New rows follow, and a second start changes nothing.
    store.keep_segment("court", tennis(0, 9));
    written(&store);
    drop((store, thread));
    let (store, _thread) = kept.open(ALL);
    assert_eq!(store.segments(&always).unwrap().len(), 1);
    assert_eq!(store.records(&always).unwrap(), records);
}

fn with_poster(segment: KeptSegment, byte: u8) -> KeptSegment {
    KeptSegment { poster: Some(vec![byte; 6000].into()), ..segment }
}

#[test]
fn posters_are_kept_with_their_segments() {
    let kept = TestHistory::new();
    let (store, _thread) = kept.open(ALL);
    store.keep_segment("court", KeptSegment { is_open: true, ..with_poster(tennis(0, 59), 1) });
    store.keep_segment("court", segment(SegmentContent::Unknown, None, 60, 99));
    written(&store);
    let poster = |first: u64| store.poster("court", RunId(0), first).unwrap().map(|jpeg| jpeg[0]);
    let has = || -> Vec<bool> { store.segments(&filter(0, 1000)).unwrap().iter().map(|s| s.has_poster).collect() };
    assert_eq!((poster(0), poster(60), poster(7), has()), (Some(1), None, None, vec![true, false]));
    assert_eq!(store.poster("other", RunId(0), 0).unwrap(), None);
    // A process that started again has no picture of its first seconds.
    store.keep_segment("court", tennis(0, 59));
    written(&store);
    assert_eq!(poster(0), Some(1));
    store.keep_segment("court", with_poster(tennis(0, 59), 2));
    written(&store);
    assert_eq!(poster(0), Some(2));
    store.keep_segment("court", segment(SegmentContent::Class, Some("soccer"), 0, 59));
    written(&store);
    assert_eq!(poster(0), None, "a picture of tennis is none of soccer");
    store.forget("court");
    written(&store);
    assert_eq!(has(), Vec::<bool>::new());
}

#[test]
fn posters_beyond_a_quarter_of_the_size_go_before_seconds() {
    let kept = TestHistory::new();
    let limits = HistorySettings { max_bytes: 1 << 20, ..ALL };
    let (store, thread) = kept.open(limits);
    for n in 0..300 {
        store.keep_segment("court", with_poster(tennis(n * 10, n * 10 + 9), 1));
        if n % 100 == 0 {
            written(&store);
        }
    }
    for second in 0..120 {
        store.keep_second("court", second * 1000, format!("{{\"index\":{second}}}"));
    }
    written(&store);
    kept.clock.advance(120 * NANOS_PER_SECOND);
    store.keep_segment("court", tennis(9000, 9009));
    written(&store);
    let segments = store.segments(&HistoryFilter { limit: 2000, ..filter(0, 100_000) }).unwrap();
    assert_eq!(segments.len(), 301, "no segment went");
    let with: Vec<bool> = segments.iter().map(|segment| segment.has_poster).collect();
    let count = with.iter().filter(|has| **has).count();
    assert!((30..200).contains(&count), "{count}");
    assert!(!with[0] && with[299], "the oldest went first");
    assert!(!store.seconds("court", KeptTime::ALL).unwrap().is_empty(), "the seconds are there");
    drop((store, thread));
}

/// The file that the version before wrote had segments without pictures.
#[test]
fn a_file_of_version_5_keeps_its_segments() {
    let kept = TestHistory::new();
    let connection = super::super::schema::of_version(&kept.path(), 5);
    let sql = "INSERT INTO segments (stream, run, first, last, began_ms, ended_ms, content, class, open, json)
               VALUES ('court', 0, 0, 9, 0, 10000, 'class', 'tennis', 0, '{}')";
    connection.execute(sql, []).unwrap();
    drop(connection);
    let (store, _thread) = kept.open(ALL);
    let segments = store.segments(&filter(0, 100)).unwrap();
    assert!(segments.len() == 1 && !segments[0].has_poster, "{segments:?}");
    store.keep_segment("court", with_poster(tennis(0, 9), 3));
    written(&store);
    assert!(store.poster("court", RunId(0), 0).unwrap().is_some());
}
