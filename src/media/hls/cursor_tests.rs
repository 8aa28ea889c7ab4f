use super::*;
use crate::hls::playlist::PartialSegment;
use touchline_core::time::NANOS_PER_SECOND as S;

fn url(name: &str) -> Url {
    Url::parse("http://h.example/").unwrap().join(name).unwrap()
}

fn segment(name: &str) -> Segment {
    Segment {
        url: url(name),
        range: None,
        duration_ns: 2 * S,
        is_break: false,
        is_gap: false,
        made_ns: None,
        key: None,
        map: None,
        parts: Vec::new(),
        ad: None,
    }
}

/// Segments `from..to` named `NAME<number>`, two seconds each.
fn media(name: &str, from: u128, to: u128) -> MediaPlaylist {
    MediaPlaylist {
        sequence: from,
        target_ns: 2 * S,
        segments: (from..to).map(|n| segment(&format!("{name}{n}"))).collect(),
        ..MediaPlaylist::default()
    }
}

fn take(cursor: &mut PlaylistCursor, media: &MediaPlaylist) -> Vec<Piece> {
    cursor.update(media);
    std::iter::from_fn(|| cursor.next(media)).collect()
}

fn names(pieces: &[Piece]) -> String {
    pieces.iter().map(|p| p.url.path()[1..].to_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_recording_begins_at_its_start_and_a_channel_near_its_end() {
    let mut whole = media("s", 5, 15);
    whole.is_over = true;
    let mut cursor = PlaylistCursor::default();
    assert_eq!(take(&mut cursor, &whole).len(), 10);
    assert!(cursor.is_at_end(&whole));
    let mut cursor = PlaylistCursor::default();
    assert_eq!(names(&take(&mut cursor, &media("s", 0, 10))), "s7 s8 s9");
    assert_eq!(names(&take(&mut cursor, &media("s", 1, 11))), "s10");
    assert_eq!(names(&take(&mut cursor, &media("s", 1, 11))), "");
    let mut near = media("s", 0, 10);
    near.hold_back_ns = Some(3 * S);
    assert_eq!(names(&take(&mut PlaylistCursor::default(), &near)), "s8 s9");
    assert_eq!(names(&take(&mut PlaylistCursor::default(), &media("s", 0, 2))), "s0 s1", "a short window");
}

#[test]
fn segments_that_left_the_window_are_counted_and_stale_copies_are_ignored() {
    let mut cursor = PlaylistCursor::default();
    take(&mut cursor, &media("s", 0, 5));
    let pieces = take(&mut cursor, &media("s", 8, 12));
    assert_eq!(names(&pieces), "s8 s9 s10 s11");
    assert_eq!((pieces[0].missed_ns, pieces[1].missed_ns), (6 * S, 0));
    assert_eq!(names(&take(&mut cursor, &media("s", 6, 10))), "", "a stale copy");
    assert_eq!(names(&take(&mut cursor, &media("s", 9, 13))), "s12");
    let pieces = take(&mut cursor, &media("s", 13 + MISSED_MAX + 1, 13 + MISSED_MAX + 3));
    assert!(pieces[0].is_restart && pieces[0].missed_ns == 0);
}

#[test]
fn a_playlist_that_starts_over_is_a_restart() {
    let mut cursor = PlaylistCursor::default();
    take(&mut cursor, &media("a", 100, 105));
    let pieces = take(&mut cursor, &media("b", 0, 3));
    assert_eq!(names(&pieces), "b0 b1 b2");
    assert_eq!(pieces.iter().map(|p| p.is_restart).collect::<Vec<_>>(), [true, false, false]);
    // Other media under the numbers of taken segments.
    let pieces = take(&mut cursor, &media("c", 0, 4));
    assert!(names(&pieces).starts_with('c') && pieces[0].is_restart);
    // The same media with new numbers.
    let mut cursor = PlaylistCursor::default();
    take(&mut cursor, &media("a", 0, 6));
    let mut renumbered = media("a", 2, 8);
    renumbered.sequence = 100;
    let pieces = take(&mut cursor, &renumbered);
    assert_eq!((names(&pieces).as_str(), pieces[0].is_restart), ("a6 a7", false));
    // It is near the old position and advances, so it is not a stale copy.
    let mut cursor = PlaylistCursor::default();
    take(&mut cursor, &media("a", 0, 9));
    let mut all = Vec::new();
    for end in 6..9 {
        all.extend(take(&mut cursor, &media("a", end - 3, end)));
    }
    assert!(all.is_empty());
    assert!(take(&mut cursor, &media("a", 3, 8)).first().is_none_or(|p| p.is_restart));
}

#[test]
fn parts_are_played_until_one_fails() {
    let part = |name: &str| PartialSegment { url: url(name), range: None, duration_ns: S / 2, is_gap: false };
    let mut live = media("s", 0, 4);
    (live.part_target_ns, live.part_hold_back_ns) = (Some(S / 2), Some(3 * S / 2));
    live.segments[3].parts = (0..4).map(|n| part(&format!("p3.{n}"))).collect();
    live.unfinished = Some(Segment { parts: vec![part("p4.0")], ..segment("p4.0") });
    let mut cursor = PlaylistCursor::default();
    assert_eq!(names(&take(&mut cursor, &live)), "p3.0 p3.1 p3.2 p3.3 p4.0");
    assert_eq!(cursor.blocking_query().as_deref(), Some("_HLS_msn=4&_HLS_part=1"));
    let mut later = media("s", 1, 5);
    later.part_target_ns = Some(S / 2);
    later.segments[3].parts = (0..4).map(|n| part(&format!("p4.{n}"))).collect();
    assert_eq!(names(&take(&mut cursor, &later)), "p4.1 p4.2 p4.3");

    let mut cursor = PlaylistCursor::default();
    cursor.update(&live);
    let first = cursor.next(&live).unwrap();
    cursor.leave_parts(&first, &live);
    assert_eq!(names(&take(&mut cursor, &live)), "s3");
    assert!(!cursor.is_low_latency());

    // The last part fails. Playback continues after the segment.
    let mut cursor = PlaylistCursor::default();
    cursor.update(&live);
    let pieces: Vec<Piece> = std::iter::from_fn(|| cursor.next(&live)).take(4).collect();
    cursor.leave_parts(&pieces[3], &live);
    let rest = take(&mut cursor, &later);
    assert_eq!((names(&rest), rest[0].missed_ns), ("s4".to_owned(), S / 2));
}

#[test]
fn the_rest_of_a_segment_is_missing_when_its_parts_are_gone() {
    let part = |name: &str| PartialSegment { url: url(name), range: None, duration_ns: S / 2, is_gap: false };
    for (taken, missed_ns) in [(4, 0), (1, 3 * S / 2)] {
        let mut live = media("s", 0, 3);
        (live.part_target_ns, live.part_hold_back_ns) = (Some(S / 2), Some(S / 2));
        live.unfinished = Some(Segment { parts: (0..taken).map(|_| part("p3")).collect(), ..segment("p3") });
        let mut cursor = PlaylistCursor::default();
        assert_eq!(take(&mut cursor, &live).len(), taken);
        let mut later = media("s", 0, 5);
        later.segments[4].parts = (0..4).map(|_| part("p4")).collect();
        let pieces = take(&mut cursor, &later);
        assert_eq!((names(&pieces), pieces[0].missed_ns), ("p4 p4 p4 p4".to_owned(), missed_ns));
    }
}

#[test]
fn extreme_sequence_numbers_do_not_panic() {
    let mut cursor = PlaylistCursor::default();
    let far = MediaPlaylist { sequence: u64::MAX.into(), ..media("s", 0, 3) };
    take(&mut cursor, &far);
    take(&mut cursor, &media("s", 0, 3));
    take(&mut cursor, &MediaPlaylist::default());
    take(&mut cursor, &far);
}
