//! A relay between channels. All messages of a player are queued before it runs, so the relay never waits.

use crossbeam_channel::{Sender, unbounded};

use super::super::input::{DemuxerIntake, PlayerMessage, RunningDecoder};
use super::super::player::PlayerNote;
use super::super::playlist::AdBreakEdge;
use super::*;
use crate::Source;
use crate::guard::Refusal;
use touchline_core::clock::ManualClock;
use touchline_core::frame::Frame;
use touchline_core::item::Pace;
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;

const MS: u64 = 1_000_000;

struct Silent;

impl Source for Silent {
    fn pace(&self) -> Pace {
        Pace::File
    }

    fn stop(&mut self) {}
}

fn picture(at_ms: u64) -> MediaItem {
    MediaItem::Frame(Frame::new(Pooled::detached(vec![0; 3]), 1, 1, Pts(at_ms * MS), 0))
}

/// A tenth of a second.
fn sound(at_ms: u64) -> MediaItem {
    MediaItem::Pcm(PcmChunk::new(Pooled::detached(vec![0.0; 800]), 8_000, 1, Pts(at_ms * MS), 0))
}

fn opened(video: bool, audio: bool) -> MediaItem {
    MediaItem::Opened(Tracks { video, audio })
}

fn broken() -> MediaItem {
    MediaItem::Ended(End::Failed { kind: Cause::Damaged, cause: "no media".into(), advice: String::new() })
}

/// Pictures every 100 ms between two positions, after the declaration of a single track.
fn pictures(from_ms: u64, to_ms: u64) -> Vec<MediaItem> {
    let all = (from_ms..to_ms).step_by(100).map(picture);
    [opened(true, false)].into_iter().chain(all).collect()
}

fn sounds(from_ms: u64, to_ms: u64) -> Vec<MediaItem> {
    let all = (from_ms..to_ms).step_by(100).map(sound);
    [opened(false, true)].into_iter().chain(all).collect()
}

/// The sending end of a player.
struct PlayerSender(Sender<PlayerMessage>);

impl PlayerSender {
    /// Starts a decoder without media.
    fn start(&self) -> (Sender<MediaItem>, Arc<DemuxerIntake>) {
        let (to, from) = unbounded();
        let intake = Arc::new(DemuxerIntake::default());
        self.0
            .send(PlayerMessage::Decoding(RunningDecoder { _source: Box::new(Silent), from, intake: intake.clone() }))
            .unwrap();
        (to, intake)
    }

    fn decode(&self, items: Vec<MediaItem>) -> Arc<DemuxerIntake> {
        let (to, intake) = self.start();
        for item in items {
            to.send(item).unwrap();
        }
        intake
    }

    fn note(&self, note: PlayerNote) {
        self.0.send(PlayerMessage::Note(note)).unwrap();
    }

    fn missing(&self, from_ms: u64, to_ms: u64) {
        self.note(PlayerNote::Missing { from_ns: from_ms * MS, to_ns: to_ms * MS });
    }

    fn breaks(&self, at_ms: u64) {
        self.note(PlayerNote::Break { at_ns: at_ms * MS, cause: Discontinuity::Playlist });
    }

    fn fail(&self, kind: Cause) {
        self.0.send(PlayerMessage::End(PlayerEnd::Failed(Refusal::of(kind, "gone", "")))).unwrap();
    }
}

fn describe(item: &MediaItem) -> String {
    let ms = |pts: &Pts| pts.0 / MS;
    match item {
        MediaItem::Frame(frame) => format!("picture {}", ms(&frame.pts)),
        MediaItem::Pcm(chunk) => format!("sound {}", ms(&chunk.pts)),
        MediaItem::Opened(tracks) => format!("opened {}", u8::from(tracks.video) + u8::from(tracks.audio)),
        MediaItem::Missing { from, to } => format!("missing {}-{}", ms(from), ms(to)),
        MediaItem::Discontinuity(cause) => format!("break {cause:?}"),
        MediaItem::Wall { pts, .. } => format!("date {}", ms(pts)),
        MediaItem::Incident(incident) => incident.as_str().to_owned(),
        other => format!("{other:?}"),
    }
}

/// The output and the end. `main` and `rendition` queue the messages of the main player and of the rendition player.
fn relayed(main: impl FnOnce(&PlayerSender), rendition: impl FnOnce(&PlayerSender)) -> (Vec<String>, End) {
    let ((main_to, main_from), (rendition_to, rendition_from), (to, from)) = (unbounded(), unbounded(), unbounded());
    main(&PlayerSender(main_to));
    rendition(&PlayerSender(rendition_to));
    let inputs = vec![RelayInput::new(main_from), RelayInput::new(rendition_from)];
    let end = Relay::new(inputs, Outlet::new(to), Arc::new(ManualClock::default()), false).run();
    (from.try_iter().map(|item| describe(&item)).collect(), end)
}

fn alone(main: impl FnOnce(&PlayerSender)) -> Vec<String> {
    let (output, end) = relayed(main, |_| {});
    assert_eq!(end, End::Finished);
    output
}

#[test]
fn items_of_two_players_are_sent_in_timeline_order() {
    let (output, end) = relayed(
        |main| drop(main.decode(pictures(0, 300))),
        |rendition| {
            rendition.decode(sounds(50, 250));
            // Another demuxer continues the track.
            rendition.decode(sounds(250, 350));
        },
    );
    let wanted = ["opened 2", "picture 0", "sound 50", "picture 100", "sound 150", "picture 200", "sound 250"];
    assert_eq!((output.iter().map(String::as_str).collect::<Vec<_>>(), end), (wanted.to_vec(), End::Finished));
}

#[test]
fn items_of_one_demuxer_are_sent_in_timeline_order() {
    let output = alone(|main| {
        let mut items = vec![opened(true, true)];
        items.extend([0, 100, 200].map(sound));
        items.push(MediaItem::TrackEnded(Track::Audio));
        items.extend([0, 90, 250].map(picture));
        main.decode(items);
    });
    assert_eq!(output[1..], ["picture 0", "sound 0", "picture 90", "sound 100", "sound 200", "picture 250"]);
}

#[test]
fn missing_time_is_sent_between_the_media_around_it() {
    let output = alone(|main| {
        main.decode(pictures(0, 200));
        main.missing(200, 4_200);
        main.decode(pictures(4_200, 4_400));
        // Also at the end.
        main.missing(4_400, 6_400);
    });
    let wanted = [
        "opened 1",
        "picture 0",
        "picture 100",
        "missing 200-4200",
        "picture 4200",
        "picture 4300",
        "missing 4400-6400",
    ];
    assert_eq!(output, wanted);
    // Without an announcement.
    let output = alone(|main| drop(main.decode(vec![opened(true, false), picture(0), picture(900), picture(5_000)])));
    assert_eq!(output, ["opened 1", "picture 0", "picture 900", "missing 900-5000", "picture 5000"]);
}

#[test]
fn a_discontinuity_is_sent_before_the_media_that_follow_it() {
    let output = alone(|main| {
        main.decode(pictures(0, 200));
        main.breaks(200);
        main.decode(pictures(200, 300));
    });
    assert_eq!(output, ["opened 1", "picture 0", "picture 100", "break Playlist", "picture 200"]);
    // The media before the break were shorter than stated in the playlist.
    let output = alone(|main| {
        main.decode(pictures(0, 200));
        main.breaks(6_000);
        main.decode(pictures(6_000, 6_100));
    });
    assert_eq!(output[2..], ["picture 100", "missing 100-6000", "break Playlist", "picture 6000"]);
    // Missing time before a break belongs to the previous run.
    let output = alone(|main| {
        main.decode(pictures(0, 200));
        main.missing(200, 2_200);
        main.breaks(2_200);
        main.decode(pictures(2_200, 2_300));
    });
    assert_eq!(output[3..], ["missing 200-2200", "break Playlist", "picture 2200"]);
}

#[test]
fn the_sound_waits_for_the_break_of_the_pictures() {
    let (output, _) = relayed(
        |main| {
            main.decode(pictures(0, 200));
            main.breaks(200);
            main.decode(pictures(200, 300));
        },
        |rendition| {
            rendition.decode(sounds(0, 200));
            rendition.breaks(200);
            rendition.decode(sounds(200, 300));
        },
    );
    let at = output.iter().position(|line| line == "break Playlist").unwrap();
    assert_eq!(output.iter().filter(|line| line.starts_with("break")).count(), 1);
    assert!(output[..at].contains(&"sound 100".to_owned()), "{output:?}");
    assert!(output[at..].contains(&"sound 200".to_owned()), "{output:?}");
}

#[test]
fn marks_precede_their_media() {
    let output = alone(|main| {
        // Sent long before the media are decoded.
        main.note(PlayerNote::Date { at_ns: 0, unix_ns: 1 });
        main.note(PlayerNote::Date { at_ns: 110 * MS, unix_ns: 2 });
        main.note(PlayerNote::Ad { at_ns: 200 * MS, ad: AdBreakEdge::Out.into() });
        main.note(PlayerNote::Ad { at_ns: 300 * MS, ad: AdBreakEdge::In.into() });
        main.note(PlayerNote::Lost { at_ns: 300 * MS, cause: Cause::NotFound });
        main.decode(pictures(0, 400));
    });
    let wanted = [
        "opened 1",
        "date 0",
        "picture 0",
        "date 110",
        "picture 100",
        "ad-break-began",
        "picture 200",
        "ad-break-ended",
        "segment-lost",
        "picture 300",
    ];
    assert_eq!(output, wanted, "playlist dates are rounded: a date 10 ms after a picture belongs to it");
}

#[test]
fn missing_time_at_the_start_is_sent_once_the_tracks_are_known() {
    let output = alone(|main| {
        main.missing(0, 2_000);
        main.missing(2_000, 4_000);
        main.decode(pictures(4_000, 4_200));
    });
    assert_eq!(output, ["opened 1", "missing 0-4000", "picture 4000", "picture 4100"]);
}

#[test]
fn a_later_track_starts_a_run() {
    let output = alone(|main| {
        main.decode(pictures(0, 200));
        main.decode(vec![opened(true, true), picture(200), sound(200), picture(300), sound(300)]);
    });
    let wanted = ["opened 1", "picture 0", "picture 100", "picture 200", "break Tracks", "opened 2", "sound 200"];
    assert_eq!(output[..7], wanted);
}

#[test]
fn three_consecutive_failed_demuxers_end_the_stream() {
    let (output, end) = relayed(
        |main| {
            for _ in 0..2 {
                assert!(!main.decode(vec![broken()]).is_closed());
            }
            // A demuxer that works: the count starts over.
            main.decode(pictures(0, 100));
            for _ in 0..3 {
                main.decode(vec![broken()]);
            }
            main.decode(pictures(100, 200));
        },
        |_| {},
    );
    assert_eq!(output, ["opened 1", "picture 0"]);
    assert!(matches!(end, End::Failed { kind: Cause::Damaged, .. }));
}

#[test]
fn a_failed_demuxer_closes_its_intake() {
    let mut states = Vec::new();
    relayed(|main| states.extend([main.decode(vec![broken()]), main.decode(pictures(0, 100))]), |_| {});
    assert_eq!(states.iter().map(|state| state.is_closed()).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn undecodable_sound_does_not_end_the_pictures() {
    let (output, end) = relayed(
        |main| drop(main.decode(pictures(0, 200))),
        |rendition| {
            for _ in 0..4 {
                rendition.decode(vec![broken()]);
            }
        },
    );
    assert_eq!((&output[..], end), (&["opened 1", "picture 0", "picture 100"].map(String::from)[..], End::Finished));
}

#[test]
fn the_stream_ends_like_its_main_player() {
    let (output, end) = relayed(
        |main| {
            main.decode(pictures(0, 200));
            main.missing(200, 2_200);
            main.fail(Cause::PlaylistStalled);
        },
        |_| {},
    );
    assert_eq!(output[2..], ["picture 100", "missing 200-2200"], "known losses are sent before the end");
    assert!(matches!(end, End::Failed { kind: Cause::PlaylistStalled, .. }));
    let (output, end) = relayed(|main| main.fail(Cause::NotFound), |_| {});
    assert!(output.is_empty() && matches!(end, End::Failed { kind: Cause::NotFound, .. }));
    // Only undecodable media.
    let (_, end) = relayed(|main| drop(main.decode(vec![broken()])), |_| {});
    assert!(matches!(end, End::Failed { kind: Cause::Damaged, .. }));
}

#[test]
fn a_request_to_stop_ends_the_relay() {
    let ((main_to, main_from), (to, _from)) = (unbounded(), unbounded());
    let outlet = Outlet::new(to);
    outlet.stop();
    PlayerSender(main_to.clone()).decode(pictures(0, 200));
    let end = Relay::new(vec![RelayInput::new(main_from)], outlet, Arc::new(ManualClock::default()), false).run();
    assert_eq!(end, End::Finished);
}

#[test]
fn a_relay_sleeps_until_the_last_media_of_a_player_that_is_gone_are_decoded() {
    let ((main_to, main_from), (to, _from)) = (unbounded(), unbounded());
    let (media_to, _) = PlayerSender(main_to).start();
    let clock = Arc::new(ManualClock::default());
    let mut relay = Relay::new(vec![RelayInput::new(main_from)], Outlet::new(to), clock, false);
    // So that the step has something to send.
    media_to.send(opened(true, false)).unwrap();
    media_to.send(picture(0)).unwrap();
    relay.step().unwrap();
    assert!(relay.inputs[0].is_awaited());
    assert!(relay.events(true).try_ready().is_err(), "nothing has arrived");
    media_to.send(picture(100)).unwrap();
    assert!(relay.events(true).try_ready().is_ok());
}
