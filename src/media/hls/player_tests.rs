//! A player with a simulated clock and origin.

#[path = "player_channel_tests.rs"]
mod channel;
#[path = "player_random_tests.rs"]
mod random;

use std::sync::atomic::Ordering;

use aes::Aes128;
use cbc::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use channel::{
    Channel, Event, Flaw, LIFE, Life, Reply, SegmentBehaviour, Server, name, play, player, sound, stamped, url,
};

use super::super::breaks::AdAction;
use super::super::id3::tests::tag;
use super::super::mp4::tests::{emsg, fragment, init};
use super::super::splice::tests::{insert_at, segment_at};
use super::super::ts::tests::marked;
use super::*;
use touchline_core::time::NANOS_PER_SECOND as S;

fn ids(range: std::ops::Range<u32>) -> Vec<u32> {
    range.collect()
}

fn without(range: std::ops::Range<u32>, gone: &[u32]) -> Vec<u32> {
    range.filter(|id| !gone.contains(id)).collect()
}

fn failure(end: &PlayerEnd) -> &Refusal {
    match end {
        PlayerEnd::Failed(refusal) => refusal,
        PlayerEnd::Over => panic!("the player ended without a failure"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_recording_is_played_completely_and_each_segment_is_requested_once() {
    let channel = Channel::recording(Life::new(12, 2));
    let server = Server::of(channel.clone());
    let (end, events) = play(&server).await;
    let account = channel.account(&events);
    assert_eq!((end, account.media, account.elapsed_ns), (PlayerEnd::Over, ids(0..12), 24 * S));
    assert!((0..12).all(|id| server.request_count(&name(id)) == 1));
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Begin(_))).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_followed_until_its_endlist() {
    let channel = Channel { window: 4, age_s: 20, ..Channel::new(Life::new(40, 2)) };
    let server = Server::of(channel.clone());
    let began = Instant::now();
    let (end, events) = play(&server).await;
    assert_eq!(end, PlayerEnd::Over);
    assert_eq!(channel.account(&events).media, ids(7..40), "three target durations behind the end");
    assert!((Duration::from_secs(60)..Duration::from_secs(64)).contains(&began.elapsed()));
    let reloads = server.request_count("live.m3u8");
    assert!(reloads <= 70, "{reloads} reloads in a minute of 30 segments");
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_fails_at_first_is_retried() {
    let (early, late) = (SegmentBehaviour::Fails(4, Cause::NotFound), SegmentBehaviour::Fails(3, Cause::ServerError));
    let channel = Channel::new(Life::new(20, 2)).with_behaviours(&[(5, early), (11, late)]);
    let server = Server::of(channel.clone());
    let (end, events) = play(&server).await;
    assert_eq!((end, server.request_count("s5"), server.request_count("s11")), (PlayerEnd::Over, 5, 4));
    let account = channel.account(&events);
    assert_eq!((account.media, account.lost.is_empty()), (ids(0..20), true));
}

#[tokio::test(start_paused = true)]
async fn a_lost_segment_is_missing_for_its_length_and_playback_continues() {
    let behaviours = [
        (4, SegmentBehaviour::Lost(Cause::NotFound)),
        (8, SegmentBehaviour::Cut),
        (9, SegmentBehaviour::Page),
        (15, SegmentBehaviour::Lost(Cause::ServerError)),
    ];
    for channel in [Channel::new(Life::new(16, 2)), Channel::recording(Life::new(16, 2))] {
        let channel = channel.with_behaviours(&behaviours);
        let (end, events) = play(&Server::of(channel.clone())).await;
        let account = channel.account(&events);
        assert_eq!((end, account.media), (PlayerEnd::Over, without(0..16, &[4, 8, 9, 15])));
        assert_eq!(account.missing, [(8, 10), (16, 20), (30, 32)], "including the last segment");
        assert_eq!(account.lost, [Cause::NotFound, Cause::NotMedia, Cause::NotMedia, Cause::ServerError]);
        assert_eq!((account.elapsed_ns, account.breaks.len()), (32 * S, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_answers_time_out_and_nothing_else_is_lost() {
    let channel = Channel::new(Life::new(30, 2)).with_behaviours(&[
        (6, SegmentBehaviour::Hangs),
        (7, SegmentBehaviour::Hangs),
        (20, SegmentBehaviour::Hangs),
    ]);
    let server = Server::of(channel.clone());
    let (end, events) = play(&server).await;
    let account = channel.account(&events);
    assert_eq!((end, account.media), (PlayerEnd::Over, without(0..30, &[6, 7, 20])));
    assert_eq!(account.missing, [(12, 16), (40, 42)]);
    assert!([6, 7, 20].iter().all(|id| server.request_count(&name(*id)) == 1), "there is no time for a retry");
}

#[tokio::test(start_paused = true)]
async fn an_announced_gap_is_missing_and_not_requested() {
    let channel =
        Channel::new(Life::new(16, 2)).with_behaviours(&[(5, SegmentBehaviour::Gap), (6, SegmentBehaviour::Gap)]);
    let server = Server::of(channel.clone());
    let (end, events) = play(&server).await;
    let account = channel.account(&events);
    assert_eq!((end, account.missing), (PlayerEnd::Over, vec![(10, 14)]));
    assert!(account.lost.is_empty(), "nothing is lost");
    assert_eq!(server.request_count("s5") + server.request_count("s6"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_packager_starts_a_run() {
    let mut channel = Channel { window: 6, ..Channel::new(Life::new(20, 2)) };
    channel.lives[0].slots.truncate(16);
    channel.lives.push(Life { from_s: 40, ..Life::new(10, 2) });
    let (end, events) = play(&Server::of(channel.clone())).await;
    let account = channel.account(&events);
    assert_eq!((end, &account.breaks[..]), (PlayerEnd::Over, &[Discontinuity::JumpBack][..]));
    assert_eq!(account.media, [ids(0..16), ids(LIFE..LIFE + 10)].concat());
    assert_eq!(account.elapsed_ns, 52 * S);
}

#[tokio::test(start_paused = true)]
async fn each_discontinuity_is_one_break_even_if_its_segment_is_lost() {
    let mut channel = Channel::new(Life::new(24, 2))
        .with_behaviours(&[(0, SegmentBehaviour::Fine), (14, SegmentBehaviour::Lost(Cause::NotFound))]);
    // Segments 8 to 13 are an advertisement. The channel also begins with a discontinuity.
    for (n, slot) in channel.lives[0].slots.iter_mut().enumerate() {
        slot.starts_s += if (8..14).contains(&n) { 50_000 } else { 0 };
        slot.is_break = matches!(n, 0 | 8 | 14);
    }
    let (end, events) = play(&Server::of(channel.clone())).await;
    let account = channel.account(&events);
    assert_eq!(account.breaks, [Discontinuity::Playlist; 2], "no media precede the first mark");
    assert_eq!((end, account.missing, account.elapsed_ns), (PlayerEnd::Over, vec![(28, 30)], 48 * S));
}

#[tokio::test(start_paused = true)]
async fn segments_that_left_the_window_are_missing() {
    // The playlist is unavailable for eight seconds, and its window is six.
    let mut flaws = vec![Flaw::None; 12];
    flaws.extend([Flaw::Failed(Cause::ServerError); 8]);
    let channel = Channel { window: 3, flaws, ..Channel::new(Life::new(40, 2)) };
    let (end, events) = play(&Server::of(channel.clone())).await;
    let account = channel.account(&events);
    assert_eq!((end, account.elapsed_ns), (PlayerEnd::Over, 80 * S));
    assert_eq!((account.missing.len(), account.breaks.len()), (1, 0));
    assert!(account.lost.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_playlist_has_stalled_and_its_losses_are_reported() {
    let channel = Channel { ends: false, ..Channel::new(Life::new(10, 2)) };
    let channel = channel.with_behaviours(&[(9, SegmentBehaviour::Lost(Cause::NotFound))]);
    let began = Instant::now();
    let (end, events) = play(&Server::of(channel.clone())).await;
    assert_eq!(failure(&end).kind, Cause::PlaylistStalled);
    assert!(began.elapsed() < Duration::from_secs(14 + 4 + 13), "{:?}", began.elapsed());
    let account = channel.account(&events);
    assert_eq!((account.media, account.missing), (ids(0..9), vec![(18, 20)]));
}

#[tokio::test(start_paused = true)]
async fn a_temporary_failure_of_the_playlist_is_retried() {
    for flaw in [Flaw::Damaged, Flaw::Failed(Cause::ServerError), Flaw::Failed(Cause::NotFound), Flaw::Hangs] {
        for seconds in [2, 6, 12] {
            let mut flaws = vec![Flaw::None; 9];
            (flaws[0], flaws[4], flaws[7]) = (if flaw == Flaw::Hangs { Flaw::None } else { flaw }, flaw, flaw);
            let channel = Channel { flaws, ..Channel::new(Life::new(20, seconds)) };
            let (end, events) = play(&Server::of(channel.clone())).await;
            let account = channel.account(&events);
            assert_eq!((end, account.media), (PlayerEnd::Over, ids(0..20)), "{flaw:?}, {seconds} s");
        }
    }
    // Retries are limited.
    let channel = Channel { flaws: vec![Flaw::Damaged; 100], ..Channel::new(Life::new(20, 2)) };
    let (end, _) = play(&Server::of(channel)).await;
    assert_eq!(failure(&end).kind, Cause::Damaged);
}

#[tokio::test(start_paused = true)]
async fn a_stale_playlist_repeats_nothing() {
    let flaws = (0..60).map(|n| if n % 3 == 2 { Flaw::Stale(2) } else { Flaw::None }).collect();
    let channel = Channel { flaws, window: 5, ..Channel::new(Life::new(30, 2)) };
    let (end, events) = play(&Server::of(channel.clone())).await;
    let account = channel.account(&events);
    assert_eq!((end, account.media, account.breaks.len()), (PlayerEnd::Over, ids(0..30), 0));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_worked_fails_soon() {
    let pages = (0..20).map(|n| (n, SegmentBehaviour::Page)).collect::<Vec<_>>();
    let (end, events) = play(&Server::of(Channel::new(Life::new(20, 2)).with_behaviours(&pages))).await;
    assert_eq!((failure(&end).kind, failure(&end).cause.contains("a web page")), (Cause::NotMedia, true));
    assert!(!events.iter().any(|event| matches!(event, Event::Begin(_))));
    let protected = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://a\",\
                     KEYFORMAT=\"com.apple.streamingkeydelivery\"\n#EXTINF:2,\na\n";
    let server = Server::new(move |_, _, _| Reply::Now(protected.into()), |_, _, _| unreachable!());
    let (end, _) = play(&server).await;
    assert_eq!((failure(&end).kind, server.request_count("live.m3u8")), (Cause::Encrypted, 1));
    let none = (0..4).map(|n| (n, SegmentBehaviour::Gap)).collect::<Vec<_>>();
    let (end, _) = play(&Server::of(Channel::recording(Life::new(4, 2)).with_behaviours(&none))).await;
    assert_eq!(failure(&end).kind, Cause::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_broken_demuxer_is_replaced() {
    let channel = Channel::recording(Life::new(6, 2));
    let (mut player, recorder) = player(&Server::of(channel.clone()));
    recorder.broken.store(1, Ordering::Relaxed);
    assert_eq!(player.run(None).await, PlayerEnd::Over);
    let events = recorder.events();
    assert_eq!(channel.account(&events).media, ids(0..6));
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Begin(_))).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_next_connection_continues_at_the_last_position() {
    let channel = Channel { window: 8, ..Channel::new(Life::new(60, 2)) };
    let server = Server::of(channel.clone());
    let memory = PlaylistMemory::default();
    let (mut first, recorder) = player(&server);
    first.memory = Some(memory.clone());
    // The connection breaks off.
    assert!(tokio::time::timeout(Duration::from_secs(21), first.run(None)).await.is_err());
    let mut last = *channel.account(&recorder.events()).media.last().unwrap();
    for (outage_s, missing) in [(6, false), (30, true)] {
        let next = last + 1;
        sleep(Duration::from_secs(outage_s)).await;
        let (mut second, recorder) = player(&server);
        let media = second.load(None, RESPONSE_TIMEOUT).await.unwrap();
        second.cursor = memory.resume(&url(), &media);
        second.memory = Some(memory.clone());
        let _ = tokio::time::timeout(Duration::from_secs(5), second.run(Some(media))).await;
        let account = channel.account(&recorder.events());
        let first = account.media[0];
        assert_eq!((first > next, account.missing.is_empty()), (missing, !missing));
        assert_eq!(account.missing.iter().map(|(from, to)| to - from).sum::<u64>(), u64::from(first - next) * 2);
        assert!(account.breaks.is_empty());
        last = *account.media.last().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_before_the_first_media_is_reported_by_the_next_connection() {
    let behaviours = (3..9).map(|n| (n, SegmentBehaviour::Lost(Cause::NotFound))).collect::<Vec<_>>();
    let channel = Channel::new(Life::new(30, 2)).with_behaviours(&behaviours);
    let (server, memory) = (Server::of(channel.clone()), PlaylistMemory::default());
    let connect = async || {
        let (mut next, recorder) = player(&server);
        let media = next.load(None, RESPONSE_TIMEOUT).await.unwrap();
        (next.cursor, next.memory) = (memory.resume(&url(), &media), Some(memory.clone()));
        (next, recorder, media)
    };
    let (mut first, recorder, media) = connect().await;
    assert!(tokio::time::timeout(Duration::from_secs(1), first.run(Some(media))).await.is_err());
    assert_eq!(channel.account(&recorder.events()).media, ids(0..3));
    sleep(Duration::from_secs(12)).await;
    let (mut second, recorder, media) = connect().await;
    assert_eq!(failure(&second.run(Some(media)).await).kind, Cause::NotFound);
    second.settle();
    assert_eq!(channel.account(&recorder.events()).elapsed_ns, 0);
    let (mut third, recorder, media) = connect().await;
    assert_eq!(third.run(Some(media)).await, PlayerEnd::Over);
    let account = channel.account(&recorder.events());
    assert_eq!((account.media, account.missing), (ids(9..30), vec![(0, 12)]));
}

#[tokio::test(start_paused = true)]
async fn another_variant_fills_in_losses_but_not_announced_gaps() {
    let other = Channel::new(Life::new(24, 2));
    let first =
        other.clone().with_behaviours(&[(6, SegmentBehaviour::Gap), (7, SegmentBehaviour::Lost(Cause::NotFound))]);
    let account = first.clone();
    let files = (first.clone(), other.clone());
    let server = Server::new(
        move |at, _, url| match url.path() {
            "/b/live.m3u8" => other.playlist(at, 0),
            _ if at < Duration::from_secs(11) => first.playlist(at, 0),
            _ => Reply::Failed(Cause::NotFound),
        },
        move |_, nth, name| match name.strip_prefix("b/") {
            Some(name) => files.1.file(nth, name),
            None => files.0.file(nth, name),
        },
    );
    let (mut player, recorder) = player(&server);
    assert_eq!(failure(&player.run(None).await).kind, Cause::NotFound);
    player.change(url().join("b/live.m3u8").unwrap());
    assert_eq!(player.run(None).await, PlayerEnd::Over);
    let account = account.account(&recorder.events());
    assert_eq!((account.media, account.missing), (without(0..24, &[6]), vec![(12, 14)]));
    assert_eq!((account.elapsed_ns, account.breaks.len()), (48 * S, 0));
}

#[tokio::test(start_paused = true)]
async fn keys_rotate_and_a_refused_key_is_reported() {
    let key = |n: u8| [n; 16];
    let playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-KEY:METHOD=AES-128,URI=\"k1\"\n\
                    #EXTINF:2,\ns0\n#EXTINF:2,\ns1\n#EXT-X-KEY:METHOD=AES-128,URI=\"k2\",IV=0x05\n#EXTINF:2,\ns2\n\
                    #EXT-X-KEY:METHOD=NONE\n#EXTINF:2,\ns3\n#EXT-X-ENDLIST\n";
    let files = move |_: Duration, _: usize, name: &str| {
        let encrypt = |n: u32, key: [u8; 16], iv: u128| {
            let encryptor = cbc::Encryptor::<Aes128>::new(&key.into(), &iv.to_be_bytes().into());
            encryptor.encrypt_padded_vec::<Pkcs7>(&sound(n, 100 + u64::from(n) * 2))
        };
        Reply::Now(match name {
            "k1" => key(1).to_vec(),
            "k2" => key(2).to_vec(),
            "s0" => encrypt(0, key(1), 7),
            "s1" => encrypt(1, key(1), 8),
            "s2" => encrypt(2, key(2), 5),
            _ => sound(3, 106),
        })
    };
    let server = Server::new(move |_, _, _| Reply::Now(playlist.into()), files);
    let (end, events) = play(&server).await;
    let account = channel::Account::new(&events, |_| 2 * S);
    assert_eq!((end, account.media, server.request_count("k1")), (PlayerEnd::Over, ids(0..4), 1));
    let refuses = move |at: Duration, nth: usize, name: &str| match name {
        "k1" => Reply::Failed(Cause::Forbidden),
        _ => files(at, nth, name),
    };
    let (end, _) = play(&Server::new(move |_, _, _| Reply::Now(playlist.into()), refuses)).await;
    assert_eq!(failure(&end).kind, Cause::Encrypted);
}

/// Parts of half a second, four per segment. Of parts 12 to 19 only the first `available` exist.
fn low_latency(available: usize) -> Arc<Server> {
    let playlist = |at: Duration, _: usize, _: &Url| {
        let parts = 4 * 3 + (at.as_millis() / 500) as usize;
        let mut text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-PART-INF:PART-TARGET=0.5\n\
                        #EXT-X-SERVER-CONTROL:PART-HOLD-BACK=1.5\n"
            .to_owned();
        for segment in 0..parts.min(32).div_ceil(4) {
            for part in 0..4.min(parts - segment * 4) {
                text += &format!("#EXT-X-PART:DURATION=0.5,URI=\"p{}\"\n", segment * 4 + part);
            }
            if (segment + 1) * 4 <= parts {
                text += &format!("#EXTINF:2,\nw{}\n", segment * 4);
            }
        }
        Reply::Now(if parts >= 32 { text + "#EXT-X-ENDLIST\n" } else { text })
    };
    let files = move |_: Duration, _: usize, name: &str| {
        let part = name[1..].parse::<u32>().unwrap();
        if name.starts_with('p') && part as usize >= 12 + available && part < 20 {
            return Reply::Failed(Cause::NotFound);
        }
        let id = if name.starts_with('w') { LIFE + part } else { part };
        Reply::Now(stamped(id, 100 * 90_000 + u64::from(part) * 45_000))
    };
    Server::new(playlist, files)
}

#[tokio::test(start_paused = true)]
async fn whole_segments_replace_failed_parts_and_no_time_is_lost() {
    let length = |id: u32| if id < LIFE { S / 2 } else { 2 * S };
    let (end, events) = play(&low_latency(100)).await;
    let account = channel::Account::new(&events, length);
    assert_eq!((end, account.media.len() % 4, account.missing.len()), (PlayerEnd::Over, 0, 0), "{:?}", account.media);
    // No part of the segment was output: the whole segment is fetched.
    let (end, events) = play(&low_latency(0)).await;
    let account = channel::Account::new(&events, length);
    let whole = |from: u32| (from..32).step_by(4).map(|part| LIFE + part).collect::<Vec<_>>();
    assert_eq!((end, account.media, account.missing.len()), (PlayerEnd::Over, [ids(8..12), whole(12)].concat(), 0));
    // Two of four parts were output: the rest of the segment is missing.
    let (end, events) = play(&low_latency(2)).await;
    let account = channel::Account::new(&events, length);
    assert_eq!((end, account.media), (PlayerEnd::Over, [ids(8..14), whole(16)].concat()));
    assert_eq!((account.missing, account.elapsed_ns), (vec![(3, 4)], 12 * S));
}

/// Announcements of breaks among the events: positions in milliseconds, and actions.
fn announced(events: &[Event]) -> Vec<(u64, AdAction)> {
    let ad = |event: &Event| match event {
        Event::Note(PlayerNote::Ad { at_ns, ad }) => Some((at_ns / 1_000_000, ad.action)),
        _ => None,
    };
    events.iter().filter_map(ad).collect()
}

const OUT: AdAction = AdAction::Out { returns_after_ns: None };

#[tokio::test(start_paused = true)]
async fn announcements_in_mpeg_ts_are_placed_on_the_timeline() {
    let playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\ns0\n#EXT-X-CUE-OUT\n#EXTINF:2,\ns1\n#EXTINF:2,\ns2\n#EXT-X-ENDLIST\n";
    let files = |_: Duration, _: usize, name: &str| {
        let n = name[1..].parse::<u64>().unwrap();
        let ticks = |second: u64| (100 + second) * 90_000;
        let (sections, tags) = match n {
            // One ahead, one long past, and one at a time of another timeline.
            0 => {
                let old = (100 - 20) * 90_000;
                let all = [
                    insert_at(1, true, ticks(3), None),
                    insert_at(9, true, old, None),
                    insert_at(8, true, 1 << 32, None),
                ];
                (all.to_vec(), Vec::new())
            }
            1 => (Vec::new(), Vec::new()),
            _ => {
                let in_tag = tag("PRIV", &[&b"scte35\0"[..], &insert_at(1, false, ticks(5), None)[..]].concat());
                (vec![segment_at(2, 0x35, ticks(5), None)], vec![(ticks(4), in_tag)])
            }
        };
        Reply::Now(marked(ticks(2 * n), &sections, &tags))
    };
    let (end, events) = play(&Server::new(move |_, _, _| Reply::Now(playlist.into()), files)).await;
    assert_eq!(end, PlayerEnd::Over);
    let wanted = [(3_000, OUT), (0, OUT), (2_000, OUT), (5_000, AdAction::In), (5_000, AdAction::In)];
    assert_eq!(announced(&events), wanted);
}

#[tokio::test(start_paused = true)]
async fn event_messages_in_fragmented_mp4_are_placed_on_the_timeline() {
    let playlist =
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MAP:URI=\"m\"\n#EXTINF:2,\ns0\n#EXTINF:2,\ns1\n#EXT-X-ENDLIST\n";
    let files = |_: Duration, _: usize, name: &str| {
        let (first, scheme) = (1_024, "urn:scte:scte35:2013:bin");
        Reply::Now(match name {
            "m" => init(),
            // The message's time counts, not the one in the section.
            "s0" => [emsg(1, scheme, 3_000, &insert_at(1, true, 77, None)), fragment(1, 0, first)].concat(),
            _ => [emsg(0, scheme, 1_500, &insert_at(1, false, 77, None)), fragment(1, 25_600, first)].concat(),
        })
    };
    let (end, events) = play(&Server::new(move |_, _, _| Reply::Now(playlist.into()), files)).await;
    assert_eq!((end, announced(&events)), (PlayerEnd::Over, vec![(3_000, OUT), (3_500, AdAction::In)]));
}
