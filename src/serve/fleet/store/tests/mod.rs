mod packs;

use std::path::Path;
use std::process::Command;

use async_nats::jetstream;
use nkeys::KeyPair;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::config::{ConfigFile, SettingSources, resolve};
use crate::deliver::tests::servers::{Process, free_port, installed};
use crate::fleet::rollout::{Member, Rollout, RolloutRules};
use crate::fleet::{Holder, Lease, NodeRecord, NodeState, Renewal, StreamRecord};
use crate::wait::until;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn server(program: &Path, folder: &Path, port: u16, arguments: &[&str]) -> Process {
    let mut command = Command::new(program);
    let store = folder.join("jetstream");
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(store).args(arguments);
    Process::start(&mut command, port)
}

fn settings(name: &str, port: u16, keys: &str) -> FleetSettings {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    std::fs::write(
        &path,
        format!("[fleet]\nurl = \"nats://127.0.0.1:{port}\"\nname = \"{name}\"\nnode = \"a\"\n{keys}"),
    )
    .unwrap();
    let file = ConfigFile::read(&path).unwrap();
    resolve(SettingSources { file, ..SettingSources::default() }).unwrap().fleet.unwrap()
}

fn lease(epoch: u64) -> FleetValue {
    let owner = Some(Holder { node: "a".into(), session: u64::MAX - 1 });
    FleetValue::Lease(Lease { owner, epoch, next: None })
}

fn stream(uri: &str) -> FleetValue {
    let needs = BTreeMap::from([("gpu".to_owned(), "true".to_owned())]);
    FleetValue::Stream(StreamRecord { cost: 180, needs, settings: json!({ "uri": uri }) })
}

fn node() -> FleetValue {
    let (labels, state) = (BTreeMap::new(), NodeState::Active);
    FleetValue::Node(NodeRecord { session: 7, capacity: 1000, labels, state, page: Some("http://a:8080/".into()) })
}

fn renewal(count: u64) -> FleetValue {
    FleetValue::Renewal(Renewal { session: 7, count, is_fenced: false })
}

/// A server with a connection to it.
struct StoreBench {
    runtime: Runtime,
    store: FleetStore,
    folder: TempDir,
    port: u16,
    server: Option<Process>,
}

impl StoreBench {
    fn start() -> Option<Self> {
        let program = installed("nats-server")?;
        let (folder, port, runtime) = (tempfile::tempdir().unwrap(), free_port(), runtime());
        let server = Some(server(&program, folder.path(), port, &[]));
        let store = runtime.block_on(FleetStore::connect(&settings("tv", port, ""), "a")).unwrap();
        Some(Self { runtime, store, folder, port, server })
    }

    fn put(&self, key: &FleetKey, value: &FleetValue, revision: Option<u64>) -> FleetStoreResult {
        self.runtime.block_on(self.store.put(key, value, revision))
    }

    /// The changes that a watch sends.
    fn watch(&self) -> mpsc::Receiver<FleetChange> {
        let (to, changes) = mpsc::channel(1000);
        let store = self.store.clone();
        self.runtime.spawn(async move { store.watch(&to).await });
        changes
    }
}

fn next(changes: &mut mpsc::Receiver<FleetChange>) -> FleetChange {
    let mut found = None;
    until("a change", || {
        found = changes.try_recv().ok();
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_write_replaces_the_revision_that_it_names_or_nothing() {
    let Some(bench) = StoreBench::start() else { return };
    let key = FleetKey::Lease("court.1".into());
    assert_eq!(bench.runtime.block_on(bench.store.read(&key)), Ok(None));
    assert_eq!(bench.put(&key, &lease(1), Some(4)), Err(FleetStoreError::Conflict), "there is no such revision");
    let (written, first) = bench.put(&key, &lease(1), None).unwrap().unwrap();
    assert_eq!(written, lease(1));
    assert_eq!(bench.put(&key, &lease(2), None), Err(FleetStoreError::Conflict), "it exists");
    let (_, second) = bench.put(&key, &lease(2), Some(first)).unwrap().unwrap();
    assert!(second > first);
    assert_eq!(bench.put(&key, &lease(3), Some(first)), Err(FleetStoreError::Conflict), "it was replaced");
    assert_eq!(bench.runtime.block_on(bench.store.read(&key)), Ok(Some((lease(2), second))));
    // Of two that replace the same revision, one wins.
    let (one, other) = bench.runtime.block_on(async {
        let (one, other) = (lease(3), lease(4));
        tokio::join!(bench.store.put(&key, &one, Some(second)), bench.store.put(&key, &other, Some(second)))
    });
    assert_eq!(u8::from(one.is_ok()) + u8::from(other.is_ok()), 1, "{one:?} {other:?}");
    // A key that was deleted does not exist.
    let (_, last) = bench.runtime.block_on(bench.store.read(&key)).unwrap().unwrap();
    assert_eq!(bench.runtime.block_on(bench.store.delete(&key, first)), Err(FleetStoreError::Conflict));
    bench.runtime.block_on(bench.store.delete(&key, last)).unwrap();
    assert_eq!(bench.runtime.block_on(bench.store.read(&key)), Ok(None));
    assert!(bench.put(&key, &lease(9), None).unwrap().is_some_and(|(_, revision)| revision > last));
}

#[test]
fn a_watch_has_all_values_then_changes_and_deletions_but_no_renewals() {
    let Some(bench) = StoreBench::start() else { return };
    let [court, of_court, here] =
        [FleetKey::Stream("court.1".into()), FleetKey::Lease("court.1".into()), FleetKey::Node("a".into())];
    let (_, revision) = bench.put(&court, &stream("rtsp://h/1"), None).unwrap().unwrap();
    let (_, revision) = bench.put(&court, &stream("rtsp://h/2"), Some(revision)).unwrap().unwrap();
    bench.put(&FleetKey::Renewal("a".into()), &renewal(1), None).unwrap();
    let mut changes = bench.watch();
    assert_eq!(next(&mut changes), (court.clone(), Some((stream("rtsp://h/2"), revision))));
    let (_, of_node) = bench.put(&here, &node(), None).unwrap().unwrap();
    let (_, of_lease) = bench.put(&of_court, &lease(1), None).unwrap().unwrap();
    bench.runtime.block_on(bench.store.delete(&court, revision)).unwrap();
    assert_eq!(next(&mut changes), (here.clone(), Some((node(), of_node))));
    assert_eq!(next(&mut changes), (of_court.clone(), Some((lease(1), of_lease))));
    assert_eq!(next(&mut changes), (court, None));
    // A snapshot has the same.
    let all = bench.runtime.block_on(bench.store.snapshot()).unwrap();
    assert_eq!(all.keys().collect::<Vec<_>>(), [&here, &of_court]);
}

#[test]
fn an_empty_bucket_has_no_keys() {
    let Some(bench) = StoreBench::start() else { return };
    assert!(bench.runtime.block_on(bench.store.snapshot()).unwrap().is_empty());
    bench.put(&FleetKey::Renewal("a".into()), &renewal(1), None).unwrap();
    assert!(bench.runtime.block_on(bench.store.snapshot()).unwrap().is_empty());
}

#[test]
fn a_snapshot_has_all_keys_while_they_change() {
    let Some(bench) = StoreBench::start() else { return };
    let keys: Vec<FleetKey> = (0..20).map(|n| FleetKey::Stream(format!("court.{n}").into())).collect();
    for key in &keys {
        bench.put(key, &stream("rtsp://h/1"), None).unwrap();
    }
    let (store, changed) = (bench.store.clone(), keys.clone());
    let writer = bench.runtime.spawn(async move {
        for key in changed.iter().cycle() {
            let (_, revision) = store.read(key).await.unwrap().unwrap();
            store.put(key, &stream("rtsp://h/2"), Some(revision)).await.unwrap();
        }
    });
    for round in 0..200 {
        let all = bench.runtime.block_on(bench.store.snapshot()).unwrap();
        assert_eq!(all.len(), keys.len(), "snapshot {round}");
    }
    assert!(!writer.is_finished(), "the keys have changed all the time");
    writer.abort();
}

#[test]
fn values_and_the_watch_survive_a_restart_of_the_server() {
    let Some(mut bench) = StoreBench::start() else { return };
    let court = FleetKey::Lease("court".into());
    let (_, first) = bench.put(&court, &lease(1), None).unwrap().unwrap();
    let mut changes = bench.watch();
    assert_eq!(next(&mut changes), (court.clone(), Some((lease(1), first))));
    // Killed.
    drop(bench.server.take());
    until("the end of the connection", || !bench.store.is_connected());
    let late = bench.runtime.block_on(async {
        tokio::time::timeout(Duration::from_millis(200), bench.store.put(&court, &lease(2), Some(first))).await
    });
    assert!(late.is_err() || late == Ok(Err(FleetStoreError::Unavailable)), "{late:?}");
    let program = installed("nats-server").unwrap();
    bench.server = Some(server(&program, bench.folder.path(), bench.port, &[]));
    until("the connection", || bench.store.is_connected());
    let mut known = None;
    until("an answer", || {
        known = bench.runtime.block_on(bench.store.read(&court)).ok().flatten();
        known.is_some()
    });
    // The write during the outage was sent late, or never.
    let (value, revision) = known.unwrap();
    assert!(value == lease(1) || value == lease(2), "{value:?}");
    let mut written = None;
    until("a write", || {
        let current = bench.runtime.block_on(bench.store.read(&court)).ok().flatten().map_or(revision, |(_, r)| r);
        written = bench.put(&court, &lease(7), Some(current)).ok().flatten();
        written.is_some()
    });
    let written = written.unwrap();
    loop {
        let (key, value) = next(&mut changes);
        assert_eq!(key, court);
        if value.as_ref().is_some_and(|(_, revision)| *revision >= written.1) {
            assert_eq!(value, Some(written));
            break;
        }
    }
}

#[test]
fn a_server_that_answers_nothing_more_is_left() {
    let Some(bench) = StoreBench::start() else { return };
    let court = FleetKey::Lease("court".into());
    let patient = bench.runtime.block_on(async_nats::connect(format!("127.0.0.1:{}", bench.port))).unwrap();
    let (_, first) = bench.put(&court, &lease(1), None).unwrap().unwrap();
    // To the client this is a network that loses all packets: the connection does not end.
    let server = bench.server.as_ref().unwrap();
    server.signal(Signal::STOP);
    until("the end of the connection", || !bench.store.is_connected());
    assert_eq!(patient.connection_state(), State::Connected, "a client without pings");
    server.signal(Signal::CONT);
    until("an answer", || bench.runtime.block_on(bench.store.read(&court)) == Ok(Some((lease(1), first))));
}

#[test]
fn a_login_that_is_refused_and_a_server_without_jetstream_are_reported() {
    let Some(program) = installed("nats-server") else { return };
    let (folder, port, runtime) = (tempfile::tempdir().unwrap(), free_port(), runtime());
    let connect = |keys: &str| runtime.block_on(FleetStore::connect(&settings("tv", port, keys), "a"));
    let refused = connect("").err().unwrap().to_string();
    assert!(refused.contains("127.0.0.1") && refused.contains("check its address"), "{refused}");
    let user = KeyPair::new_user();
    let config = folder.path().join("nats.conf");
    let nkey = format!(
        "authorization {{ users: [ {{ nkey: {} }}, {{ user: ann, password: pl4nt-pw }} ] }}\n",
        user.public_key()
    );
    std::fs::write(&config, nkey).unwrap();
    let mut command = Command::new(&program);
    command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-c"]).arg(&config);
    let running = Process::start(&mut command, port);
    let refused = connect("").err().unwrap().to_string();
    assert!(refused.contains("the server refuses the login"), "{refused}");
    let [seed, password] = ["seed", "password"].map(|name| folder.path().join(name));
    std::fs::write(&seed, user.seed().unwrap()).unwrap();
    std::fs::write(&password, "pl4nt-pw").unwrap();
    for keys in [format!("credentials_file = {seed:?}"), format!("user = \"ann\"\nsecret_file = {password:?}")] {
        let store = connect(&keys).unwrap();
        let failure = runtime.block_on(store.snapshot()).unwrap_err().to_string();
        assert!(failure.contains("start nats-server with -js") && !failure.contains("pl4nt"), "{failure}");
        let read = runtime.block_on(store.read(&FleetKey::Lease("a".into())));
        assert_eq!(read, Err(FleetStoreError::Unavailable));
    }
    drop(running);
}

#[test]
fn the_last_second_of_a_stream_is_found_in_its_records() {
    let Some(bench) = StoreBench::start() else { return };
    let last = |id: &str| bench.runtime.block_on(bench.store.last_second(id));
    assert_eq!(last("court.1"), Err(FleetStoreError::Unavailable), "there is no stream of records");
    bench.runtime.block_on(async {
        let client = async_nats::connect(format!("127.0.0.1:{}", bench.port)).await.unwrap();
        let context = jetstream::new(client);
        let (name, subjects) = (records_stream("tv"), vec!["touchline.tv.*.*".to_owned()]);
        let config = jetstream::stream::Config { name, subjects, ..Default::default() };
        context.create_stream(config).await.unwrap();
        for time in ["2024-05-01T10:00:00.000Z", "2024-05-01T10:00:01.500Z"] {
            let event = json!({ "data": { "wall": { "time": time } } }).to_string();
            context.publish("touchline.tv.court_1.second", event.into()).await.unwrap().await.unwrap();
        }
    });
    assert_eq!(last("other"), Ok(None));
    let until_ns = parse_rfc3339("2024-05-01T10:00:02.5Z").unwrap();
    assert_eq!(last("court.1"), Ok(Some(LastSecond { sequence: 2, until_ns })));
    // A second without a programme, and a span that nobody published.
    bench.runtime.block_on(async {
        let client = async_nats::connect(format!("127.0.0.1:{}", bench.port)).await.unwrap();
        let context = jetstream::new(client);
        let lost = json!({ "from": "2024-05-01T10:00:30Z", "to": "2024-05-01T10:00:35Z", "seconds": 5 });
        for (stream, lost) in [("court_2", None), ("court_3", Some(lost))] {
            let gap = json!({ "time": "2024-05-01T10:00:40Z", "data": { "lost": lost } }).to_string();
            context.publish(format!("touchline.tv.{stream}.gap"), gap.into()).await.unwrap().await.unwrap();
        }
    });
    for (id, sequence, until) in [("court.2", 3, "2024-05-01T10:00:39Z"), ("court.3", 4, "2024-05-01T10:00:35Z")] {
        let until_ns = parse_rfc3339(until).unwrap();
        assert_eq!(last(id), Ok(Some(LastSecond { sequence, until_ns })));
    }
    // Records of another stream and of the successor follow.
    bench.runtime.block_on(async {
        let client = async_nats::connect(format!("127.0.0.1:{}", bench.port)).await.unwrap();
        let context = jetstream::new(client);
        for (stream, epoch, time) in
            [("other", 1, "30"), ("court_1", 1, "03.5"), ("court_1", 2, "20"), ("court_1", 2, "21")]
        {
            let wall = json!({ "time": format!("2024-05-01T10:00:{time:0>2}Z") });
            let event = json!({ "data": { "epoch": epoch, "wall": wall } }).to_string();
            context.publish(format!("touchline.tv.{stream}.second"), event.into()).await.unwrap().await.unwrap();
        }
    });
    let before = |sequence, epoch| bench.runtime.block_on(bench.store.last_second_before("court.1", sequence, epoch));
    assert_eq!(before(2, 2), Ok(Some(parse_rfc3339("2024-05-01T10:00:04.5Z").unwrap())));
    assert_eq!(before(1, 1), Ok(Some(until_ns)), "records without an epoch are older than all");
    assert_eq!(before(7, 2), Ok(None));
}

/// A server with the deployed configuration, and the settings of a machine of its fleet. [`None`] without the program.
pub(crate) fn deployed(folder: &Path) -> Option<(Process, FleetSettings)> {
    let (program, port) = (installed("nats-server")?, free_port());
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/nats-server.conf");
    let text = std::fs::read_to_string(config).unwrap();
    let text = text.replace("0.0.0.0:4222", &format!("127.0.0.1:{port}"));
    let store_dir = folder.join("jetstream").display().to_string();
    let text = text.replace("/var/lib/nats", &store_dir).replace("100GB", "1GB");
    let [config, password] = ["nats.conf", "password"].map(|name| folder.join(name));
    std::fs::write(&config, text).unwrap();
    std::fs::write(&password, "pl4nt-node").unwrap();
    let mut command = Command::new(&program);
    command
        .arg("-c")
        .arg(&config)
        .env("NODE_PASSWORD", "pl4nt-node")
        .env("READER_PASSWORD", "pl4nt-reader")
        .env("PACKS_PASSWORD", "pl4nt-packs");
    let server = Process::start(&mut command, port);
    let keys = format!("user = \"touchline\"\nsecret_file = {password:?}");
    Some((server, settings("main", port, &keys)))
}

#[test]
fn the_rights_of_the_deployed_configuration_suffice_and_are_limited() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let Some((_server, of_main)) = deployed(folder.path()) else { return };
    let store = runtime.block_on(FleetStore::connect(&of_main, "a")).unwrap();
    let (key, here) = (FleetKey::Lease("court.1".into()), FleetKey::Renewal("a".into()));
    let (to, mut changes) = mpsc::channel(10);
    runtime.block_on(async {
        let (_, revision) = store.put(&key, &lease(1), None).await.unwrap().unwrap();
        store.put(&here, &renewal(1), None).await.unwrap();
        assert!(store.read(&here).await.unwrap().is_some());
        let watched = store.clone();
        tokio::spawn(async move { watched.watch(&to).await });
        store.put(&key, &lease(2), Some(revision)).await.unwrap();
        assert_eq!(store.snapshot().await.unwrap().len(), 1);
    });
    while next(&mut changes).1.is_none_or(|(value, _)| value != lease(2)) {}
    // The records of other machines.
    runtime.block_on(async {
        let config = jetstream::stream::Config {
            name: records_stream("main"),
            subjects: vec!["touchline.main.*.*".into()],
            ..Default::default()
        };
        store.context.create_stream(config).await.unwrap();
        let mut found = Vec::new();
        let publish = |time: &str| {
            let event = format!(r#"{{"time":"2024-05-01T10:00:{time}Z","data":{{"stream":"court.1"}}}}"#);
            store.context.publish("touchline.main.court_1.state", event.into())
        };
        for time in ["00", "01"] {
            publish(time).await.unwrap().await.unwrap();
        }
        let (to, mut records) = mpsc::unbounded_channel();
        let take = |kind, json: &str, at_ms: i64| to.send((kind, json.to_owned(), at_ms)).unwrap();
        tokio::select! {
            failure = store.records(take) => panic!("{failure}"),
            () = async {
                found.extend(records.recv().await);
                publish("02").await.unwrap().await.unwrap();
                found.extend(records.recv().await);
            } => {}
        }
        let state = |at_ms| (RecordKind::State, r#"{"stream":"court.1"}"#.to_owned(), at_ms);
        assert_eq!(found, [1_714_557_601_000, 1_714_557_602_000].map(state), "the last one, and then the new ones");
    });
    // Packs are published with another login, and machines can only read them.
    let (dir, fetched) = (packs::pack(folder.path(), "first", b"weights"), folder.path().join("fetched"));
    let denied =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(2), store.publish_pack(&dir)).await });
    assert!(!matches!(denied, Ok(Ok(_))), "{denied:?}");
    std::fs::write(folder.path().join("password"), "pl4nt-packs").unwrap();
    let mut of_packs = of_main.clone();
    of_packs.sink.user = Some("packs".into());
    let publisher = runtime.block_on(FleetStore::connect(&of_packs, "p")).unwrap();
    let published = runtime.block_on(publisher.publish_pack(&dir)).unwrap();
    assert_eq!(runtime.block_on(publisher.packs()).unwrap(), std::slice::from_ref(&published));
    store.fetch_pack(runtime.handle(), &published, &fetched).unwrap();
    let rollout = |id| {
        let canary = Member { node: "a".into(), process: 1 };
        let rules = RolloutRules { agreement: 0.9, seconds: 10, watch_s: 1 };
        FleetValue::Rollout(Box::new(Rollout::new(id, published.clone(), None, canary, rules)))
    };
    runtime.block_on(async {
        let (_, revision) = publisher.put(&FleetKey::Rollout, &rollout(1), None).await.unwrap().unwrap();
        store.put(&FleetKey::Rollout, &rollout(2), Some(revision)).await.unwrap();
        assert_eq!(publisher.snapshot().await.unwrap()[&FleetKey::Rollout].0, rollout(2));
        let lease = tokio::time::timeout(Duration::from_secs(1), publisher.put(&key, &lease(9), None)).await;
        assert!(!matches!(lease, Ok(Ok(_))), "{lease:?}");
        publisher.remove_pack(&published.digest).await.unwrap();
    });
    std::fs::write(folder.path().join("password"), "pl4nt-node").unwrap();
    // Another fleet on the same server is out of reach.
    let mut other = of_main.clone();
    other.name = "other".into();
    other.sink.timeout = Duration::from_millis(500);
    let store = runtime.block_on(FleetStore::connect(&other, "a")).unwrap();
    let refused = runtime.block_on(store.put(&key, &lease(1), None));
    assert_eq!(refused, Err(FleetStoreError::Unavailable));
}
