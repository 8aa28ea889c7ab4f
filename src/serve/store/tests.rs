use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rusqlite::Connection;

use super::statements::read;
use super::*;
use crate::config::{RtspTransport, VoteFile};
use crate::http::access::NONCE;
use crate::hub::HISTORY_EVENTS;
use touchline_core::clock::ManualClock;
use touchline_media::options::{DecoderChoice, HlsOptions, Isolation, SourceKind, TierChoice};

fn settings(id: &str) -> StreamSettings {
    StreamSettings {
        id: id.into(),
        uri: format!("rtsp://ann:geheim-{id}@h.example/live"),
        pipeline: None,
        latency_ms: 300,
        rtsp_transport: RtspTransport::Tcp,
        kind: Some(SourceKind::Hls),
        tier: TierChoice::Sparse,
        decoder: DecoderChoice::Vaapi,
        hls: HlsOptions { max_height: Some(720), ..HlsOptions::default() },
        isolation: Some(Isolation::None),
        label: Some("Centre court".into()),
        group: Some("tennis".into()),
        enabled: false,
        retry: Some(false),
        record: true,
        output: None,
        vote: VoteFile { window: Some(7), onset: Some(0.7), ..VoteFile::default() },
        expect: vec!["tennis".into()],
        expect_for_s: 90,
        schedule: None,
    }
}

/// A clock that does not advance: only a flush, a full batch or the end writes the records.
fn clock() -> Arc<ManualClock> {
    Arc::default()
}

struct TestStore {
    folder: tempfile::TempDir,
}

impl TestStore {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("touchline.db")
    }

    fn open(&self) -> (Store, StoreThread, Contents) {
        Store::open(&self.path(), HistorySettings::default(), Metrics::new(), clock()).unwrap()
    }

    /// The contents after a kill of this process.
    fn contents_after_a_kill(&self) -> Contents {
        self.copy_of_files().open().2
    }

    /// A copy of the files as they are now.
    fn copy_of_files(&self) -> TestStore {
        let copy = TestStore::new();
        for file in std::fs::read_dir(self.folder.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.folder.path().join(file.file_name())).unwrap();
        }
        copy
    }

    fn refused(&self) -> String {
        Store::open(&self.path(), HistorySettings::default(), Metrics::new(), clock())
            .err()
            .expect("the file is refused")
            .to_string()
    }
}

fn save(store: &Store, id: &str, generation: u64) {
    let (to, outcome) = bounded(1);
    store.save(Stored { settings: settings(id), generation }, Box::new(move |r| to.send(r).unwrap()));
    outcome.recv().unwrap().unwrap();
}

fn delete(store: &Store, id: &str) {
    let (to, outcome) = bounded(1);
    store.delete(id, Box::new(move |r| to.send(r).unwrap()));
    outcome.recv().unwrap().unwrap();
}

fn keep(store: &Store, stream: &str, kind: RecordKind, text: &str) {
    store.keep(stream, kind, &text.into(), 0);
}

#[test]
fn a_panic_is_counted_and_later_messages_are_refused() {
    let test_store = TestStore::new();
    let metrics = Metrics::new();
    let (store, thread, _) =
        Store::open(&test_store.path(), HistorySettings::default(), metrics.clone(), clock()).unwrap();
    save(&store, "a", 1);
    store.save(Stored { settings: settings("b"), generation: 2 }, Box::new(|_| panic!("injected")));
    // Once the thread has ended, nobody receives.
    drop(thread);
    let (to, outcome) = bounded(1);
    store.save(Stored { settings: settings("c"), generation: 3 }, Box::new(move |r| to.send(r).unwrap()));
    assert!(outcome.recv().unwrap().is_err());
    assert!(metrics.encode().contains("touchline_stage_panics_total{stage=\"store\"} 1"));
    let (_store, _thread, contents) = test_store.open();
    assert_eq!(contents.streams.iter().map(|s| s.settings.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn stored_data_survive_a_restart() {
    let test_store = TestStore::new();
    let (store, thread, contents) = test_store.open();
    assert_eq!(contents, Contents::default());
    for (i, id) in ["b", "a", "c"].iter().enumerate() {
        save(&store, id, i as u64 + 1);
    }
    save(&store, "b", 9);
    delete(&store, "c");
    keep(&store, "a", RecordKind::Event, "{\"event\":1}");
    keep(&store, "a", RecordKind::Incident, "{\"incident\":1}");
    keep(&store, "a", RecordKind::State, "{\"state\":1}");
    keep(&store, "a", RecordKind::State, "{\"state\":2}");
    store.run_began("a", RunId(3));
    store.run_began("a", RunId(4));
    drop(store);
    drop(thread);
    let (_store, _thread, contents) = test_store.open();
    let streams: Vec<_> = contents.streams.iter().map(|s| (s.settings.id.as_str(), s.generation)).collect();
    assert_eq!(streams, [("b", 9), ("a", 2)], "in the order in which they were added");
    assert_eq!(contents.streams[1].settings, settings("a"));
    let restored = &contents.restored["a"];
    assert_eq!((restored.events.len(), restored.incidents.len()), (1, 1));
    assert_eq!((restored.state.as_deref(), restored.run), (Some("{\"state\":2}"), Some(RunId(4))));
}

fn run(contents: &Contents, stream: &str) -> Option<u32> {
    contents.restored.get(stream).and_then(|kept| kept.run).map(|run| run.0)
}

#[test]
fn run_numbers_are_unique_however_the_process_ends() {
    let test_store = TestStore::new();
    let (store, thread, _) = test_store.open();
    store.run_ahead("a", RunId(0));
    store.run_ahead("b", RunId(0));
    assert!(run(&test_store.contents_after_a_kill(), "a").is_some(), "the number is reserved before the run begins");
    for n in 0..1000 {
        store.run_began("a", RunId(n));
        if n % 100 == 0 {
            assert!(store.flush(Duration::from_secs(10)));
            assert!(
                run(&test_store.contents_after_a_kill(), "a") > Some(n + 100),
                "including runs that are not on the disk yet"
            );
        }
    }
    drop((store, thread));
    let (store, thread, contents) = test_store.open();
    assert_eq!(run(&contents, "a"), Some(999), "a normal end skips no numbers");
    assert_eq!(run(&contents, "b"), None, "the number was not used");
    // Messages about runs are lost while the disk hangs.
    store.misses_runs.store(true, Ordering::Release);
    store.run_began("a", RunId(1000));
    drop((store, thread));
    assert!(run(&test_store.open().2, "a") > Some(1000), "the number is skipped if messages were lost");
}

#[test]
fn the_number_of_the_last_run_outlives_the_stream() {
    let test_store = TestStore::new();
    let (store, thread, _) = test_store.open();
    for id in ["api", "file"] {
        store.run_began(id, RunId(4));
        keep(&store, id, RecordKind::Event, "{}");
    }
    save(&store, "api", 1);
    delete(&store, "api");
    store.forget("file");
    drop((store, thread));
    let contents = test_store.open().2;
    for id in ["api", "file"] {
        let left = Restored { run: Some(RunId(4)), ..Restored::default() };
        assert_eq!(contents.restored[id], left, "{id}");
    }
}

#[test]
fn a_failed_write_loses_no_run_number() {
    let test_store = TestStore::new();
    let metrics = Metrics::new();
    let (connection, lock) = schema::open(&test_store.path()).unwrap();
    let mut writer = StoreWriter {
        connection,
        place: "here".into(),
        metrics: metrics.clone(),
        clock: clock(),
        failed: false,
        runs: Runs::default(),
        history: History::default(),
        fleet: FleetHistory::default(),
        waiting: Vec::new(),
        misses_runs: Arc::default(),
        limits: HistorySettings::default(),
        trim_at: None,
        _lock: lock,
    };
    let record =
        || vec![StoreMessage::Record { stream: "a".into(), kind: RecordKind::Event, json: "{}".into(), at_ms: 0 }];
    writer.connection.execute_batch("ALTER TABLE records RENAME TO away").unwrap();
    writer.runs.began("a", RunId(5));
    writer.write(&mut record());
    assert!(writer.failed && writer.runs.is_due());
    assert!(metrics.encode().contains("touchline_store_records_lost_total 1"), "{}", metrics.encode());
    writer.connection.execute_batch("ALTER TABLE away RENAME TO records").unwrap();
    writer.write(&mut record());
    assert!(!writer.failed && !writer.runs.is_due());
    let contents = read(&writer.connection).unwrap();
    assert!(run(&contents, "a") >= Some(5) && contents.restored["a"].events.len() == 1, "{contents:?}");
}

#[test]
fn the_last_records_are_restored_and_deleted_with_their_stream() {
    let test_store = TestStore::new();
    let (store, thread, _) = test_store.open();
    for n in 0..HISTORY_EVENTS + 50 {
        // Waits for the disk, because this test is not about lost records.
        if n % 100 == 0 {
            assert!(store.flush(Duration::from_secs(10)));
        }
        keep(&store, "a", RecordKind::Event, &n.to_string());
        keep(&store, "gone", RecordKind::Event, &n.to_string());
    }
    store.forget("gone");
    assert!(store.flush(Duration::from_secs(10)));
    drop((store, thread));
    let (_store, _thread, contents) = test_store.open();
    assert!(!contents.restored.contains_key("gone"));
    let events = &contents.restored["a"].events;
    assert_eq!((events.len(), &*events[0]), (HISTORY_EVENTS, "50"));
    assert_eq!(&**events.last().unwrap(), (HISTORY_EVENTS + 49).to_string());
}

#[test]
fn records_that_a_slow_disk_loses_are_counted() {
    let metrics = Metrics::new();
    // Nothing reads the messages, as with a disk that hangs.
    let (to, _messages) = bounded(2);
    let reader = StoreReader::new("nowhere".as_ref());
    let store = Store { to, reader, metrics: metrics.clone(), misses_runs: Arc::default() };
    (0..5).for_each(|_| keep(&store, "a", RecordKind::Event, "{}"));
    assert!(metrics.encode().contains("touchline_store_records_lost_total 3"), "{}", metrics.encode());
    let (outcome_to, outcome) = bounded(1);
    store.save(Stored { settings: settings("a"), generation: 1 }, Box::new(move |r| outcome_to.send(r).unwrap()));
    assert!(outcome.recv().unwrap().unwrap_err().to_string().contains("too slow"), "the stream is refused");
    assert!(!store.flush(Duration::from_millis(10)));
}

#[test]
fn only_the_owner_can_read_the_store_and_one_process_can_open_it() {
    let test_store = TestStore::new();
    std::fs::write(test_store.path(), "").unwrap();
    std::fs::set_permissions(test_store.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (store, thread, _) = test_store.open();
    save(&store, "a", 1);
    for file in std::fs::read_dir(test_store.folder.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
    let text = test_store.refused();
    assert!(text.contains("another process uses") && text.contains("--state"), "{text}");
    drop((store, thread));
    test_store.open();
}

#[test]
fn a_foreign_or_damaged_file_is_refused() {
    let test_store = TestStore::new();
    std::fs::write(test_store.path(), "these are notes and no database, however long they may be").unwrap();
    let text = test_store.refused();
    assert!(
        text.contains("not a store of this program") && text.starts_with(test_store.path().to_str().unwrap()),
        "{text}"
    );

    std::fs::remove_file(test_store.path()).unwrap();
    Connection::open(test_store.path()).unwrap().execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    assert!(test_store.refused().contains("another program"), "{}", test_store.refused());

    std::fs::remove_file(test_store.path()).unwrap();
    drop(test_store.open());
    Connection::open(test_store.path()).unwrap().pragma_update(None, "user_version", FUTURE_VERSION).unwrap();
    assert!(test_store.refused().contains("newer version"), "{}", test_store.refused());

    std::fs::remove_file(test_store.path()).unwrap();
    let (store, thread, _) = test_store.open();
    (0..200).for_each(|n| save(&store, &format!("s{n}"), 1));
    drop((store, thread));
    let mut bytes = std::fs::read(test_store.path()).unwrap();
    let from = 4096 * 2;
    bytes[from..].iter_mut().step_by(3).for_each(|byte| *byte = byte.wrapping_add(77));
    std::fs::write(test_store.path(), bytes).unwrap();
    let text = test_store.refused();
    assert!(text.contains("damaged") && text.contains("move it away"), "{text}");

    let folder = Store::open(test_store.folder.path(), HistorySettings::default(), Metrics::new(), clock())
        .err()
        .unwrap()
        .to_string();
    assert!(folder.contains("name a file in it"), "{folder}");
    let nowhere =
        Store::open(&test_store.folder.path().join("no/such.db"), HistorySettings::default(), Metrics::new(), clock())
            .err()
            .unwrap()
            .to_string();
    assert!(nowhere.contains("folder does not exist"), "{nowhere}");
}

/// A version that does not exist yet.
const FUTURE_VERSION: i32 = 1000;

#[test]
fn debug_output_contains_no_secrets() {
    let stored = Stored { settings: settings("a"), generation: 1 };
    assert!(!format!("{stored:?}").contains("geheim"));
}

#[test]
fn streams_that_were_opening_when_the_process_died_are_counted() {
    let test_store = TestStore::new();
    let (store, _thread, _) = test_store.open();
    for id in ["opens", "played", "failed"] {
        store.mark(id);
    }
    store.unmark("played", true);
    store.unmark("failed", false);
    assert!(store.flush(Duration::from_secs(10)));
    let test_store = test_store.copy_of_files();
    let (store, _thread, contents) = test_store.open();
    assert_eq!(contents.ends, [("opens".to_owned(), 1)].into());
    store.mark("opens");
    let test_store = test_store.copy_of_files();
    let (store, thread, contents) = test_store.open();
    assert_eq!(contents.ends.get("opens"), Some(&2));
    store.mark("opens");
    store.unmark("opens", false);
    drop((store, thread));
    let (store, thread, contents) = test_store.open();
    assert_eq!(contents.ends.get("opens"), Some(&2), "a reported failure does not count");
    store.mark("opens");
    drop((store, thread));
    let (store, thread, contents) = test_store.open();
    assert_eq!(contents.ends.get("opens"), Some(&2), "a normal end does not count");
    store.mark("opens");
    store.unmark("opens", true);
    drop((store, thread));
    assert!(test_store.open().2.ends.is_empty());
}

#[test]
fn a_file_of_another_program_is_not_changed() {
    let foreign = |test_store: &TestStore| {
        let connection = Connection::open(test_store.path()).unwrap();
        connection.execute_batch("CREATE TABLE songs (name TEXT); PRAGMA user_version = 7;").unwrap();
    };
    let marked = |test_store: &TestStore| {
        let connection = Connection::open(test_store.path()).unwrap();
        connection.execute_batch("CREATE TABLE songs (name TEXT); PRAGMA application_id = 42;").unwrap();
    };
    let text = |test_store: &TestStore| std::fs::write(test_store.path(), "notes\n".repeat(100)).unwrap();
    for make in [&foreign as &dyn Fn(&TestStore), &marked, &text] {
        let test_store = TestStore::new();
        make(&test_store);
        std::fs::set_permissions(test_store.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let before = std::fs::read(test_store.path()).unwrap();
        let error = test_store.refused();
        assert!(error.contains("another program") || error.contains("not a store of this program"), "{error}");
        let mode = std::fs::metadata(test_store.path()).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, std::fs::read(test_store.path()).unwrap() == before), (0o644, true), "{error}");
        assert_eq!(std::fs::read_dir(test_store.folder.path()).unwrap().count(), 1, "no other file was created");
    }
}

#[test]
fn run_numbers_of_streams_removed_long_ago_are_deleted() {
    let test_store = TestStore::new();
    let (store, thread, _) = test_store.open();
    for id in ["here", "gone", "gone-for-long"] {
        store.run_ahead(id, RunId(0));
        store.run_began(id, RunId(0));
    }
    drop((store, thread));
    let connection = Connection::open(test_store.path()).unwrap();
    connection.execute("UPDATE runs SET seen = unixepoch() - 91 * 24 * 3600 WHERE stream != 'gone'", []).unwrap();
    drop(connection);
    let (store, thread, contents) = test_store.open();
    assert_eq!(contents.restored.len(), 3);
    store.retain_runs_of(vec!["here".into()]);
    drop((store, thread));
    let restored = test_store.open().2.restored;
    assert_eq!(restored.keys().collect::<Vec<_>>(), ["gone", "here"]);
}

#[test]
fn a_log_out_is_on_the_disk_before_it_is_answered() {
    let test_store = TestStore::new();
    let (store, _thread, contents) = test_store.open();
    assert_eq!(contents.log_outs, LogOuts::default());
    let session = |n: u8, role| RevokedSession { role, nonce: [n; NONCE], ends_s: 1 << 40 };
    for (n, role) in [(1, Role::Read), (2, Role::Read), (3, Role::Admin)] {
        let (to, kept) = oneshot::channel();
        store.left(session(n, role), to);
        kept.blocking_recv().unwrap();
    }
    let left = test_store.contents_after_a_kill().log_outs.left;
    assert_eq!(left.len(), 3);
    assert!(left.contains(&session(2, Role::Read)) && left.contains(&session(3, Role::Admin)));
    store.not_before(Role::Read, 1000);
    assert!(store.flush(Duration::from_secs(60)));
    let log_outs = test_store.contents_after_a_kill().log_outs;
    assert_eq!(log_outs, LogOuts { left: vec![session(3, Role::Admin)], not_before: vec![(Role::Read, 1000)] });
}

#[test]
fn seconds_are_kept_for_exports_until_their_stream_is_removed() {
    let kept = TestStore::new();
    let (store, thread, _) = kept.open();
    let line = |stream: &str, index: u64| format!("{{\"type\":\"gap\",\"stream\":\"{stream}\",\"index\":{index}}}");
    for index in 0..70 {
        store.keep_second("court", index as i64 * 1000, line("court", index));
        store.keep_second("gone", index as i64 * 1000, line("gone", index));
        if index == 65 {
            store.keep("court", RecordKind::Event, &"{\"type\":\"event\"}".into(), 65_000);
            store.keep("court", RecordKind::Incident, &"{\"type\":\"incident\"}".into(), 65_000);
        }
    }
    let expected: String = (0..70)
        .map(|index| line("court", index) + if index == 65 { "\n{\"type\":\"event\"}\n" } else { "\n" })
        .collect();
    let read = |store: &Store, stream: &str| String::from_utf8(store.seconds(stream, KeptTime::ALL).unwrap()).unwrap();
    assert_eq!(read(&store, "court"), expected, "also those that are not written yet");
    // A killed process keeps the minutes that were complete.
    let copied = kept.copy_of_files();
    let (copy, _copy_thread, _) = copied.open();
    assert_eq!(read(&copy, "court").lines().count(), 60);
    store.forget("gone");
    assert_eq!(read(&store, "gone"), "");
    drop((store, thread));
    assert_eq!(String::from_utf8(stored_seconds(&kept.path()).unwrap()).unwrap(), expected);
    let (store, _thread, _) = kept.open();
    assert_eq!(read(&store, "court"), expected);
}
