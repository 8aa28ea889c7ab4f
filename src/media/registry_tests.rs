//! The table of built-in sources, and registered sources. The registry is global, so each test has its own schemes.

use std::sync::Mutex;

use crossbeam_channel::{bounded, unbounded};

use super::*;
use crate::guard::{SourcePolicy, SourcesFile};
use crate::replay::{Replay, Script};
use crate::supervise::{Policy, SourceObserver, SourceState, Supervisor};
use crate::uri::Pacing;
use touchline_core::clock::ManualClock;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, End};

fn setup() -> Setup {
    Setup {
        id: "t".into(),
        wants: Tracks { video: true, audio: false },
        frame_height: 360,
        clock: Arc::new(ManualClock::default()),
        counters: Arc::default(),
    }
}

/// Registers a source whose name and scheme are `name`, and which replays `scripts`.
fn register_replay(name: &'static str, spec: Spec, scripts: Vec<Script>) {
    let replay = Arc::new(Replay::new(spec.pace, scripts));
    let schemes = vec![Scheme { name, port: Some(7000) }].leak();
    register(Spec { name, schemes, ..spec }, move |_| Ok(replay.clone())).unwrap();
}

fn once() -> Vec<Script> {
    vec![Script { items: vec![MediaItem::Opened(setup().wants)], end: Some(End::Finished) }]
}

#[test]
fn names_and_schemes_are_unique() {
    let mut names: Vec<&str> = built_in().map(|spec| spec.name).collect();
    let mut schemes: Vec<&str> = built_in().flat_map(schemes_of).collect();
    let count = (names.len(), schemes.len());
    names.sort_unstable();
    names.dedup();
    schemes.sort_unstable();
    schemes.dedup();
    assert_eq!((names.len(), schemes.len()), count);
    for (kind, spec) in &BUILT_IN {
        assert_eq!(kind.name(), spec.name);
        assert!(spec.template.is_some(), "{} has no template", spec.name);
    }
}

#[test]
fn schemes_of_the_table_are_parsed_as_their_kind() {
    for (kind, spec) in BUILT_IN.iter().filter(|(kind, _)| *kind != Kind::File) {
        for scheme in schemes_of(spec) {
            let location =
                Location::parse(&format!("{scheme}://")).or_else(|_| Location::parse(&format!("{scheme}://h:1/a")));
            assert_eq!(location.unwrap().kind, *kind, "{scheme}");
        }
    }
}

#[test]
fn kinds_are_serialized_as_their_names() {
    register_replay("named", Spec::LIVE, Vec::new());
    for kind in kinds() {
        let text = serde_json::to_string(&kind).unwrap();
        assert_eq!(serde_json::from_str::<Kind>(&text).unwrap(), kind, "{text}");
    }
    assert!(serde_json::from_str::<Kind>("\"carrier-pigeon\"").is_err());
}

#[test]
fn a_registered_source_is_parsed_redacted_and_opened() {
    const SPEC: Spec = Spec { delay: Duration::from_millis(70), secret_parameters: &["pin"], ..Spec::LIVE };
    assert!(Location::parse("camlink://pitch?pin=4711xyz").is_err());
    register_replay("camlink", SPEC, once());
    let location = Location::parse("CamLink://pitch?pin=4711xyz").unwrap();
    assert_eq!((location.kind.name(), location.pace(Pacing::Auto)), ("camlink", Pace::Live));
    assert_eq!(location.behind_ns(200), 70_000_000, "it has no jitter buffer");
    let _known = redact::remember("camlink://pitch?pin=4711xyz");
    assert_eq!(redact::text("pin 4711xyz"), "pin ***");
    assert!(Location::parse("gopher://h").unwrap_err().to_string().contains("camlink"));
    let (to, from) = unbounded();
    let source = OwnOpener(setup()).open("camlink://pitch", to).unwrap();
    let items: Vec<MediaItem> = from.iter().collect();
    assert!(matches!(items[..], [MediaItem::Opened(_), MediaItem::Ended(End::Finished)]), "{items:?}");
    assert_eq!(source.pace(), Pace::Live);
    let (to, _from) = bounded(1);
    let error = OwnOpener(setup()).open("rtsp://h/a", to).err().unwrap().to_string();
    assert!(error.contains("GstOpener"), "{error}");
}

#[test]
fn invalid_registrations_are_refused_with_the_reason() {
    let refused = |name, schemes: &[&'static str]| {
        let schemes: Vec<Scheme> = schemes.iter().map(|name| Scheme::new(name)).collect();
        let schemes = schemes.leak();
        let result = register(Spec { name, schemes, ..Spec::LIVE }, |_| Err(Error::Internal("not opened".into())));
        result.expect_err("the registration is refused").to_string()
    };
    assert!(refused("rtsp", &["other"]).contains("name is taken"));
    assert!(refused("another", &["rtspt"]).contains("rtspt is taken"));
    assert!(refused("another", &["My://"]).contains("not a scheme"));
    assert!(refused("another", &[]).contains("needs a name and a scheme"));
    assert!(by_scheme("other").is_none());
}

#[test]
fn the_policy_for_the_api_applies_to_registered_sources() {
    register_replay("open-own", Spec { is_network: false, ..Spec::LIVE }, Vec::new());
    register_replay("shut-own", Spec { is_in_api: false, ..Spec::LIVE }, Vec::new());
    register_replay("net-own", Spec::LIVE, Vec::new());
    let policy = SourcePolicy::new(&SourcesFile::default()).unwrap();
    assert_eq!(policy.check("open-own://x"), Ok(()));
    assert!(policy.check("shut-own://x").is_err());
    assert!(policy.check("net-own://127.0.0.1/x").is_err(), "an address of this machine");
    assert_eq!(policy.check("net-own://93.184.215.14/x"), Ok(()));
    let named = SourcesFile { schemes: Some(vec!["shut-own".into()]), ..SourcesFile::default() };
    assert!(SourcePolicy::new(&named).unwrap().check("shut-own://93.184.215.14:1").is_ok());
}

#[derive(Default)]
struct States(Mutex<Vec<SourceState>>);

impl SourceObserver for States {
    fn state(&self, state: SourceState) {
        self.0.lock().unwrap().push(state);
    }

    fn incident(&self, _: Incident) {}
}

/// The items and states of two connections of `inner` under supervision.
fn supervised(inner: Arc<dyn Open>, uri: &str) -> (Vec<MediaItem>, Vec<SourceState>) {
    let kind = Location::parse(uri).unwrap().kind;
    let states = Arc::new(States::default());
    let supervisor = Supervisor {
        inner,
        policy: Policy { reopen_on_end: kind.reopens_on_end(), stall_cause: kind.stall_cause(), ..Policy::default() },
        clock: Arc::new(ManualClock::default()),
        observer: states.clone(),
        counters: Arc::default(),
        id: "own".into(),
    };
    let (to, from) = unbounded();
    let mut source = supervisor.open(uri, to).unwrap();
    let mut items = Vec::new();
    for item in &from {
        items.push(item);
        if items.iter().filter(|item| matches!(item, MediaItem::Opened(_))).count() == 2 {
            source.stop();
        }
    }
    drop(source);
    let states = std::mem::take(&mut *states.0.lock().unwrap());
    (items, states)
}

fn assert_reopened((items, states): (Vec<MediaItem>, Vec<SourceState>)) {
    use MediaItem::{Ended, Opened};
    let again = Discontinuity::Reconnect;
    assert!(
        matches!(&items[..], [Opened(_), MediaItem::Discontinuity(d), Opened(_), Ended(End::Finished)] if *d == again),
        "{items:?}"
    );
    assert_eq!(states.iter().filter(|state| **state == SourceState::Playing).count(), 2, "{states:?}");
}

/// The first connection ends, and the second stays open.
fn twice() -> Vec<Script> {
    let opened = || vec![MediaItem::Opened(setup().wants)];
    vec![Script { items: opened(), end: Some(End::Finished) }, Script { items: opened(), end: None }]
}

#[test]
fn a_registered_source_runs_through_the_supervisor() {
    register_replay("supervised", Spec::LIVE, twice());
    assert_reopened(supervised(Arc::new(OwnOpener(setup())), "supervised://x"));
}

#[cfg(feature = "gst")]
#[test]
fn the_gstreamer_opener_opens_registered_sources() {
    use crate::gst::{GstOpener, GstOptions};
    register_replay("program", Spec::LIVE, twice());
    let clock = Arc::new(ManualClock::default());
    let opener = GstOpener::new(GstOptions::default(), clock.clone()).unwrap();
    assert_reopened(supervised(Arc::new(opener), "program://x"));
    register_replay("held", Spec { is_in_api: false, ..Spec::LIVE }, once());
    let guard = Some(Arc::new(SourcePolicy::default()));
    let opener = GstOpener::new(GstOptions { guard, ..GstOptions::default() }, clock.clone()).unwrap();
    let (to, from) = unbounded();
    let _source = opener.open("held://x", to).unwrap();
    let items: Vec<MediaItem> = from.iter().collect();
    let refused = matches!(&items[..], [MediaItem::Ended(End::Failed { kind: Cause::Refused, .. })]);
    assert!(refused, "the policy applies: {items:?}");
    let opener = GstOpener::new(GstOptions { pipeline: Some("x".into()), ..GstOptions::default() }, clock).unwrap();
    let error = opener.open("held://x", bounded(1).0).err().unwrap().to_string();
    assert!(error.contains("takes no pipeline"), "{error}");
}
