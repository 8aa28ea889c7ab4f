//! Streams of a fleet.

use super::*;
use crate::config::HistorySettings;
use crate::control::streams::FleetRequest;
use crate::hub::{Archive as _, KeptTime};
use crate::record::PublishingRight;

fn tenure(right: &PublishingRight) -> Arc<FleetTenure> {
    Arc::new(FleetTenure::new("a".into(), right.clone()))
}

fn watch(uri: &str, tenure: &Arc<FleetTenure>) -> FleetRequest {
    let settings = Box::new(settings(&[("court", uri)]).remove(0));
    FleetRequest::Watch { settings, tenure: tenure.clone() }
}

#[test]
fn streams_of_a_fleet_are_watched_changed_and_dropped_as_it_requests() {
    let mut bench = Bench::new(Rules { is_in_fleet: true, is_service: true, ..rules() });
    bench.start(&[]).unwrap();
    let right = PublishingRight::default();
    let first = tenure(&right);
    bench.manager.handle_fleet(watch("rtsp://h/1", &first));
    bench.settle();
    let queue = bench.queue("court");
    assert_eq!(bench.hub.source("court").map(|(_, is_guarded)| is_guarded), Some(true), "the source policy applies");
    // The API changes nothing.
    for change in [add(r#"{"uri": "rtsp://h/b"}"#), change("court", r#"{"enabled": false}"#), remove("court")] {
        let refusal = bench.outcome(change).unwrap_err();
        assert_eq!(refusal.kind, StreamRefusalKind::NotOwned);
        assert!(refusal.advice.contains("touchline stream"), "{refusal:?}");
    }
    // The same settings change nothing, others open the source again.
    bench.manager.handle_fleet(watch("rtsp://h/1", &first));
    bench.end_stopped();
    assert_eq!(bench.queue("court"), queue);
    bench.manager.handle_fleet(watch("rtsp://h/2", &first));
    bench.end_stopped();
    assert_eq!(bench.opened(), ["rtsp://h/1", "rtsp://h/2"]);
    bench.manager.handle_fleet(FleetRequest::Drop("court".into()));
    bench.end_stopped();
    assert!(bench.manager.entries.is_empty() && !bench.hub.has_stream("court"));
    bench.manager.handle_fleet(FleetRequest::Drop("court".into()));
}

#[test]
fn another_tenure_of_a_stream_begins_when_the_one_before_is_gone() {
    let mut bench = Bench::new(Rules { is_in_fleet: true, is_service: true, ..rules() });
    bench.start(&[]).unwrap();
    let right = PublishingRight::default();
    let [first, second, third] = [(); 3].map(|()| tenure(&right));
    bench.manager.handle_fleet(watch("rtsp://h/1", &first));
    bench.settle();
    bench.manager.handle_fleet(FleetRequest::Drop("court".into()));
    bench.manager.handle_fleet(watch("rtsp://h/1", &second));
    bench.settle();
    let handle = bench.manager.entries["court"].handle.clone();
    assert!(std::ptr::eq(handle.tenure().unwrap(), &raw const *first), "its source has not ended");
    bench.end_stopped();
    let handle = bench.manager.entries["court"].handle.clone();
    assert!(std::ptr::eq(handle.tenure().unwrap(), &raw const *second));
    assert_eq!(bench.opened().len(), 2);
    // Without dropping it first, and dropped before it began.
    bench.manager.handle_fleet(watch("rtsp://h/1", &third));
    bench.manager.handle_fleet(FleetRequest::Drop("court".into()));
    bench.end_stopped();
    assert!(bench.manager.entries.is_empty(), "it was dropped");
    assert_eq!(bench.opened().len(), 2);
}

#[test]
fn a_stream_that_moves_keeps_its_history_and_one_that_is_removed_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (limits, clock) = (HistorySettings::default(), Arc::<ManualClock>::default());
    let (store, _thread, _) = Store::open(&folder.path().join("store.db"), limits, Metrics::new(), clock).unwrap();
    let mut bench = Bench::new(Rules { is_in_fleet: true, is_service: true, ..rules() });
    bench.manager.tools.store = Some(store.clone());
    bench.start(&[]).unwrap();
    let right = PublishingRight::default();
    let is_kept = || {
        assert!(store.flush(Duration::from_secs(60)));
        !store.seconds("court", KeptTime::ALL).unwrap().is_empty()
    };
    for is_removed in [false, true] {
        bench.manager.handle_fleet(watch("rtsp://h/1", &tenure(&right)));
        bench.settle();
        bench.manager.handle_fleet(FleetRequest::Drop("court".into()));
        if is_removed {
            bench.manager.handle_fleet(FleetRequest::Forget("court".into()));
        }
        // Its last seconds are published after the request.
        store.keep_second("court", 0, "{}".into());
        bench.end_stopped();
        assert_eq!(is_kept(), !is_removed);
    }
    // What another machine watched.
    store.keep_second("court", 0, "{}".into());
    assert!(is_kept());
    bench.manager.handle_fleet(FleetRequest::Forget("court".into()));
    assert!(!is_kept());
}
