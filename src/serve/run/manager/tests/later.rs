//! Streams that fail, end, change and return while the program runs; reloads of the configuration file.

use super::*;

#[test]
fn a_reload_changes_only_what_differs() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a"), ("b", "rtsp://h/b")]).unwrap();
    let queue = bench.queue("a");
    bench.reload(&[("a", "rtsp://h/a"), ("c", "rtsp://h/c")]);
    bench.end_stopped();
    assert_eq!(bench.queue("a"), queue, "an unchanged stream continues");
    assert_eq!(bench.manager.entries.keys().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(bench.config()["reloads"]["last"]["changes"]["removed"], serde_json::json!(["b"]));
    bench.reload(&[("a", "rtsp://h/a2"), ("c", "rtsp://h/c")]);
    bench.end_stopped();
    assert_eq!(bench.opened().last().unwrap(), "rtsp://h/a2");
    // Removed, and added again before it is gone.
    bench.reload(&[("a", "rtsp://h/a2")]);
    bench.reload(&[("a", "rtsp://h/a2"), ("c", "rtsp://h/c3")]);
    bench.end_stopped();
    bench.end_stopped();
    assert_eq!(bench.opened().last().unwrap(), "rtsp://h/c3");
    bench.queue("c");
    assert!(bench.hub.metrics().encode().contains("touchline_config_reloads_total{result=\"applied\"} 4"));
}

#[test]
fn a_rejected_reload_changes_nothing() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    for (streams, word) in [
        (&[("b", "rtsp://h/b")][..], "\"b\" exists already"),
        (&[("c", "gopher://h/c")], "gopher"),
        (&[("c", "rtsp://h/c"), ("d", "rtsp://h/d"), ("e", "rtsp://h/e")], "max-streams 3"),
    ] {
        bench.reload(streams);
        let config = bench.config();
        let error = config["reloads"]["last"]["error"].as_str().unwrap();
        assert!(error.contains(word), "{error}");
    }
    bench.manager.read_done(Err(Error::Usage("touchline.toml: line 3: no".into())));
    let text = bench.hub.metrics().encode();
    assert!(text.contains("touchline_config_reloads_total{result=\"refused\"} 4"), "{text}");
    assert!(text.contains("touchline_config_last_reload_success 0"), "{text}");
    assert_eq!(bench.manager.entries.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(bench.opened().len(), 2);
}

#[test]
fn a_new_vote_of_the_run_applies_to_streams_without_their_own() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b", "vote": {"window": 3}}"#)).unwrap();
    let vote = VoteFile { window: Some(20), ..VoteFile::default() }.settings().unwrap();
    let reading = Reading {
        streams: settings(&[("a", "rtsp://h/a")]),
        vote,
        latency_ms: 200,
        retry: false,
        fixed: Fixed::default(),
    };
    bench.manager.read_done(Ok(reading));
    bench.settle();
    assert_eq!(bench.votes.iter().map(|v| v.window).collect::<Vec<_>>(), [20]);
}

#[test]
fn expectations_change_without_opening_the_source_again() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    let queue = bench.queue("a");
    let expecting = |names: &[&str]| {
        let mut streams = settings(&[("a", "rtsp://h/a")]);
        streams[0].expect = names.iter().map(|name| (*name).to_owned()).collect();
        streams
    };
    bench.reload_settings(expecting(&["tennis"]));
    bench.reload_settings(expecting(&["tennis"]));
    let refused = |bench: &Bench| bench.config()["reloads"]["last"]["error"].as_str().unwrap_or_default().to_owned();
    assert_eq!((refused(&bench).as_str(), bench.expectations.len()), ("", 1), "the second reload changes nothing");
    bench.reload_settings(expecting(&["tenis"]));
    assert_eq!(refused(&bench), "stream \"a\": the pack has no class \"tenis\"; did you mean tennis?");
    bench.reload_settings(expecting(&[]));
    let expected = bench.expectations.iter_mut().map(|expectations| expectations.at(None).is_empty());
    assert_eq!(expected.collect::<Vec<_>>(), [false, true], "a refused reload sends nothing");
    assert_eq!((bench.queue("a"), bench.opened().len()), (queue, 1));

    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b", "expect": ["tennis"]}"#)).unwrap();
    bench.outcome(change("b", r#"{"expect": ["other", "unknown"], "expect_for_s": 5}"#)).unwrap();
    let changed = bench.expectations.last_mut().unwrap();
    assert_eq!((changed.patience_s(), changed.at(None).names(bench.hub.classes())), (5, vec!["other", "unknown"]));
    assert_eq!(bench.opened().len(), 2);
    let refusal = bench.outcome(change("b", r#"{"expect": ["soccer"]}"#)).unwrap_err();
    assert_eq!(refusal.kind, StreamRefusalKind::Invalid);
    assert!(refusal.error.contains("choose from tennis, other, unknown and no-programme"), "{refusal}");
    assert_eq!(bench.refusal_kind(add(r#"{"uri": "rtsp://h/c", "expect": ["x"]}"#)), StreamRefusalKind::Invalid);
}

#[test]
fn a_stored_stream_plays_although_the_pack_no_longer_has_its_classes() {
    let mut bench = Bench::new(rules());
    let mut stored = settings(&[("a", "rtsp://h/a")]);
    stored[0].expect = vec!["soccer".into()];
    bench.start_with(stored).unwrap();
    bench.queue("a");
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    let fixed = Fixed::from([("listen", "another".to_owned())]);
    bench.manager.read_done(Ok(Reading {
        streams: Vec::new(),
        vote: VoteConfig::default(),
        latency_ms: 200,
        retry: false,
        fixed,
    }));
    let config = bench.config();
    assert_eq!(config["reloads"]["last"]["changes"]["needs_restart"], serde_json::json!(["listen"]));
}

#[test]
fn a_stream_enabled_later_that_cannot_be_opened_stops_no_other() {
    let mut bench = Bench::new(rules());
    let mut streams = settings(&[("a", "rtsp://h/a"), ("b", "rtsp://h/refused")]);
    streams[1].enabled = false;
    bench.start_with(streams.clone()).unwrap();
    assert_eq!((bench.state("b"), bench.opened().len()), (StreamState::Paused, 1));
    streams[1].enabled = true;
    bench.reload_settings(streams);
    assert!(bench.manager.stopping.is_none() && bench.stops.is_empty(), "the other stream continues");
    assert!(matches!(bench.state("b"), StreamState::Failed { .. }), "{:?}", bench.state("b"));
    assert!(bench.manager.ended().is_none());
}

#[test]
fn a_program_without_enabled_streams_waits_for_the_next() {
    let mut bench = Bench::new(rules());
    let mut streams = settings(&[("a", "rtsp://h/a")]);
    streams[0].enabled = false;
    bench.start_with(streams.clone()).unwrap();
    assert!(bench.manager.ended().is_none(), "the program was started with a disabled stream");

    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    bench.reload_settings(streams);
    bench.end_stopped();
    assert_eq!(bench.state("a"), StreamState::Paused);
    assert!(bench.manager.ended().is_none(), "its only stream was disabled");
    bench.reload(&[]);
    assert!(bench.manager.entries.is_empty() && bench.manager.ended().is_none(), "its only stream was removed");
    bench.reload(&[("a", "rtsp://h/a")]);
    assert!(bench.manager.ended().is_none());
    bench.queue("a");
}

#[test]
fn a_reload_reopens_streams_that_failed_or_ended() {
    let mut bench = Bench::new(Rules { is_service: true, ..rules() });
    let streams = [("failed", "rtsp://h/a"), ("ended", "http://h/live.m3u8"), ("read", "b.mp4")];
    bench.start(&streams).unwrap();
    bench.manager.entries["read"].handle.set_source("b.mp4", Pace::File);
    let queues = ["failed", "ended", "read"].map(|id| bench.queue(id));
    bench.manager.over(queues[0], Some(Error::source_error("rtsp://h/a", "no answer", "check the cable")));
    bench.manager.over(queues[1], None);
    bench.manager.over(queues[2], None);
    bench.settle();
    assert_eq!(bench.opened().len(), 3, "no stream is reopened without a reload");
    bench.reload(&streams);
    let mut again = bench.opened().split_off(3);
    again.sort();
    assert_eq!(again, ["http://h/live.m3u8", "rtsp://h/a"], "a recording is not read twice");
    bench.reload(&streams);
    assert_eq!(bench.opened().len(), 5, "running streams are not reopened");
}

#[test]
fn a_camera_that_has_played_is_retried_after_any_change() {
    let mut bench = Bench::new(rules());
    let mut streams = settings(&[("a", "rtsp://h/a")]);
    bench.start_with(streams.clone()).unwrap();
    bench.manager.entries["a"].handle.set_tracks(touchline_core::item::Tracks { video: true, audio: true });
    streams[0].latency_ms = 900;
    bench.reload_settings(streams);
    bench.end_stopped();
    assert_eq!(*bench.driver.retries.lock(), [false, true]);
}

#[test]
fn after_a_refused_change_the_settings_in_force_are_shown() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b", "enabled": false, "latency_ms": 300}"#)).unwrap();
    let shown = |bench: &Bench| {
        let shown: serde_json::Value = serde_json::from_str(&bench.hub.summary_json("b").unwrap()).unwrap();
        [&shown["uri"], &shown["settings"]["latency_ms"], &shown["settings"]["enabled"]].map(ToString::to_string)
    };
    let (before, generation) = (shown(&bench), bench.generation("b"));
    let refused = change("b", r#"{"uri": "rtsp://h/refused", "latency_ms": 500, "enabled": true}"#);
    let mut outcome = bench.submit(refused);
    assert_eq!(outcome.try_recv().unwrap().unwrap_err().kind, StreamRefusalKind::Source);
    assert_eq!(shown(&bench), before);
    let now = bench.generation("b");
    assert!(now > generation, "a client that read the refused settings must read again");
    let wanted = StreamChange::Remove { id: "b".into(), generation: Some(now) };
    assert_eq!(bench.outcome(wanted), Ok("b".into()));
}

#[test]
fn a_reused_id_continues_after_its_last_run() {
    let mut bench = Bench::new(rules());
    bench.manager.restore_runs(BTreeMap::from([("c".to_owned(), RunId(41))]));
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    let next = |bench: &Bench, id: &str| bench.manager.entries[id].handle.next_run();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    assert_eq!((next(&bench, "a"), next(&bench, "b")), (RunId(0), RunId(0)));
    for (id, run) in [("a", 3), ("b", 5)] {
        bench.manager.entries[id].handle.run_started(RunId(run), None);
    }
    bench.outcome(remove("b")).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    bench.reload(&[]);
    bench.end_stopped();
    // The store knows c from an earlier process.
    bench.reload(&[("a", "rtsp://h/a"), ("c", "rtsp://h/c")]);
    assert_eq!(["a", "b", "c"].map(|id| next(&bench, id).0), [4, 6, 42]);
    // Removed, and added again before it is gone.
    bench.manager.entries["c"].handle.run_started(RunId(42), None);
    bench.reload(&[("a", "rtsp://h/a")]);
    bench.reload(&[("a", "rtsp://h/a"), ("c", "rtsp://h/c")]);
    bench.end_stopped();
    assert_eq!(next(&bench, "c"), RunId(43));
}

#[test]
fn a_stream_whose_opening_hangs_can_be_removed() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    let mut added = bench.send(add(r#"{"id": "b", "uri": "rtsp://h/hangs"}"#));
    let mut removed = bench.send(remove("b"));
    let refusal = added.try_recv().unwrap().unwrap_err();
    assert_eq!(refusal.kind, StreamRefusalKind::Busy, "{refusal:?}");
    bench.clock.advance(CLOSE_MAX_NS - 1);
    bench.manager.check_deadlines();
    assert!(removed.try_recv().is_err() && bench.hub.has_stream("b"));
    bench.clock.advance(1);
    bench.manager.check_deadlines();
    bench.settle();
    assert_eq!((removed.try_recv().unwrap(), bench.hub.has_stream("b")), (Ok("b".into()), false));
    // Its id is free, and the first source is dropped when it opens late.
    assert_eq!(bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)), Ok("b".into()));
    let queue = bench.queue("b");
    bench.driver.hangs.store(false, Ordering::Release);
    while bench.driver.removed.lock().is_empty() {
        bench.settle();
    }
    assert_eq!(bench.queue("b"), queue);
    assert!(!bench.driver.removed.lock().contains(&queue));
}

#[test]
fn a_stream_is_reopened_after_an_internal_fault() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    let broken = || Some(Error::Internal("a: a thread of this stream panicked".into()));
    for (failures, wait_s) in [1, 2, 4].into_iter().enumerate() {
        assert_eq!(bench.opened().len(), failures + 1);
        let queue = bench.queue("a");
        bench.manager.over(queue, broken());
        bench.settle();
        assert!(bench.manager.ended().is_none(), "the stream is reopened");
        bench.clock.advance(wait_s * 1_000_000_000 - 1);
        bench.manager.check_deadlines();
        bench.settle();
        assert_eq!(bench.opened().len(), failures + 1);
        bench.clock.advance(1);
        bench.manager.check_deadlines();
        bench.settle();
    }
    // It played for a long time, so the next failure is not consecutive.
    bench.clock.advance(61_000_000_000);
    bench.manager.over(bench.queue("a"), broken());
    bench.clock.advance(1_000_000_000);
    bench.manager.check_deadlines();
    bench.settle();
    assert_eq!(bench.opened().len(), 5);
    // A failure of the source itself is final.
    bench.manager.over(bench.queue("a"), Some(Error::source_error("a", "no", "no")));
    bench.clock.advance(100_000_000_000);
    bench.manager.check_deadlines();
    bench.settle();
    assert_eq!((bench.opened().len(), bench.manager.ended().is_some()), (5, true));
}
