use super::*;

const S: u64 = touchline_core::time::NANOS_PER_SECOND;

fn parse(text: &str) -> Result<Playlist, PlaylistError> {
    Playlist::parse(text, &Url::parse("http://h.example/a/live.m3u8?tok=1").unwrap(), &Variables::default(), 0)
}

fn media(text: &str) -> MediaPlaylist {
    match parse(text) {
        Ok(Playlist::Media(media)) => *media,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_live_playlist_is_read() {
    let text = "\u{feff}#EXTM3U\r\n#EXT-X-VERSION:3\r\n#EXT-X-TARGETDURATION: 6\r\n#EXT-X-MEDIA-SEQUENCE: 41\r\n\
                #EXT-X-PROGRAM-DATE-TIME:2026-11-23T10:36:08.602+0000\r\n#EXTINF:6.006,title, more\r\na41.ts\r\n\
                #EXT-X-DISCONTINUITY\r\n#EXT-X-CUE-OUT:30\r\n#EXTINF:5\r\n/b/a42.ts?x=1\r\n#EXT-X-GAP\r\n#EXTINF:6,\r\nc\r\n";
    let read = media(text);
    assert_eq!((read.sequence, read.target_ns, read.is_over), (41, 6 * S, false));
    let [a, b, c] = &read.segments[..] else { panic!("three segments") };
    assert_eq!((a.url.as_str(), a.duration_ns, a.is_break), ("http://h.example/a/a41.ts", 6_006_000_000, false));
    assert_eq!(a.made_ns, Some(1_795_430_168_602_000_000));
    assert_eq!((b.url.as_str(), b.is_break, b.ad), ("http://h.example/b/a42.ts?x=1", true, Some(AdBreakEdge::Out)));
    assert_eq!((c.is_gap, c.is_break, c.ad), (true, false, None));
    assert!(media("#EXTM3U\n#EXTINF:1,\na\n#EXT-X-ENDLIST").is_over);
}

#[test]
fn keys_maps_ranges_and_variables_apply_until_they_change() {
    let read = media(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-DEFINE:NAME=\"p\",VALUE=\"dir\"\n#EXT-X-DEFINE:QUERYPARAM=\"tok\"\n\
         #EXT-X-MAP:URI=\"init.mp4\",BYTERANGE=\"10@0\"\n#EXT-X-BYTERANGE:100@10\n#EXTINF:2,\nall.m4s\n\
         #EXT-X-KEY:METHOD=AES-128,URI=\"k\",IV=0x2A\n#EXT-X-BYTERANGE:50\n#EXTINF:2,\nall.m4s\n\
         #EXT-X-KEY:METHOD=NONE\n#EXT-X-MAP:URI=\"{$p}/other.mp4\"\n#EXTINF:2,\n{$p}/{$tok}.m4s\n",
    );
    let [a, b, c] = &read.segments[..] else { panic!("three segments") };
    assert_eq!(a.range, Some(ByteRange { offset: 10, length: 100 }));
    assert_eq!(b.range, Some(ByteRange { offset: 110, length: 50 }));
    assert!(matches!(&b.key, Some(Protection::Key(key)) if key.iv.unwrap()[15] == 0x2a));
    assert_eq!((a.key.is_none(), c.key.is_none(), c.range), (true, true, None));
    assert_eq!(a.map, b.map);
    assert_eq!(c.map.as_ref().unwrap().url.path(), "/a/dir/other.mp4");
    assert_eq!(c.url.path(), "/a/dir/1.m4s");
}

#[test]
fn low_latency_parts_belong_to_their_segments() {
    let read = media(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.5,HOLD-BACK=6\n\
         #EXT-X-PART-INF:PART-TARGET=0.5\n#EXT-X-PART:DURATION=0.5,URI=\"p0\",INDEPENDENT=YES\n\
         #EXT-X-PART:DURATION=0.5,URI=\"p1\",GAP=YES\n#EXTINF:1,\ns0\n#EXT-X-PART:DURATION=0.5,URI=\"p2\"\n\
         #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"p3\"\n",
    );
    assert_eq!((read.can_block, read.part_target_ns, read.part_hold_back_ns), (true, Some(S / 2), Some(3 * S / 2)));
    let parts = &read.segments[0].parts;
    assert_eq!((parts.len(), parts[0].is_gap, parts[1].is_gap), (2, false, true));
    let rest = read.unfinished.unwrap().parts;
    assert_eq!((rest.len(), rest[0].url.path()), (1, "/a/p2"));
}

#[test]
fn a_list_of_variants_is_read() {
    let text = "#EXTM3U\n#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"s\",URI=\"sub.m3u8\"\n\
                #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",LANGUAGE=\"de\",DEFAULT=YES,URI=\"de.m3u8\"\n\
                #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"i.m3u8\"\n\
                #EXT-X-STREAM-INF:BANDWIDTH=900000,CODECS=\"avc1,mp4a\",RESOLUTION=640x360,AUDIO=\"a\"\n# a note\nv/index.m3u8\n\
                #EXT-X-STREAM-INF:RESOLUTION=axb\nlow.m3u8\n";
    let Ok(Playlist::Multivariant(list)) = parse(text) else { panic!("a list of variants") };
    assert_eq!(list.variants.len(), 2);
    assert_eq!((list.variants[0].height, list.variants[0].bandwidth), (Some(360), 900_000));
    assert_eq!(list.variants[0].url.path(), "/a/v/index.m3u8");
    assert_eq!((list.variants[1].height, list.variants[1].bandwidth), (None, 0));
    assert_eq!((list.renditions.len(), list.renditions[0].language.as_deref()), (1, Some("de")));
}

#[test]
fn errors_name_the_line() {
    for (text, expected) in [
        ("#EXTM3U", "no segments"),
        ("#EXTM3U\n#EXT-X-ENDLIST\n", "no segments"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-ENDLIST\n", "no segments"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n#EXT-X-ENDLIST\n", "EXTINF and no address"),
        ("#EXTM3U\r\n#EXT-X-TARGETDURATION:6\r\nseg.ts\r\n", "line 3: a segment without EXTINF"),
        ("#EXTM3U\n#EXTINF:-6,\nseg.ts\n", "line 2: the duration \"-6\""),
        ("#EXTM3U\n#EXTINF:nan,\nseg.ts\n", "the duration \"nan\""),
        ("#EXTM3U\n#EXTINF:0,\nseg.ts\n", "duration 0"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:-5\n#EXTINF:6,\nseg.ts\n", "target duration"),
        ("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:18446744073709551616\n#EXTINF:6,\nseg.ts\n", "media sequence"),
        ("#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\n#EXTINF:6,\nseg.ts\n", "line 2: a key is cut off"),
        ("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:-1\n#EXTINF:6,\nseg.ts\n", "media sequence"),
        ("#EXTM3U\n#EXT-X-KEY:METHOD=AES-128\n#EXTINF:6,\nseg.ts\n", "a key without URI"),
        ("#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\",IV=0xZZ\n#EXTINF:6,\nseg.ts\n", "the IV"),
        ("#EXTM3U\n#EXT-X-MAP:BYTERANGE=\"1@0\"\n#EXTINF:6,\nseg.ts\n", "EXT-X-MAP without URI"),
        ("#EXTM3U\n#EXTINF:6,\n#EXT-X-BYTERANGE:-1@-1\nseg.ts\n", "byte range"),
        ("#EXTM3U\n\0\0#EXTINF:6,\nseg.ts\n", "NUL"),
        ("#EXTM3U\n#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"ok.m3u8\"\n", "no variant"),
        ("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n", "no address"),
        ("#EXTM3U\n#EXTINF:1,\n{$x}.ts\n", "line 3: the variable x is not defined"),
        ("#EXTM3U\n#EXTINF:1,\nhttp://[::\n", "an address that cannot be read"),
    ] {
        match parse(text) {
            Err(PlaylistError::Damaged(error)) => assert!(error.contains(expected), "{text:?}: {error}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
    let drm = "#EXTM3U\n#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://a\",KEYFORMAT=\"com.apple.streamingkeydelivery\"\n#EXTINF:1,\na\n";
    assert_eq!(media(drm).segments[0].key, Some(Protection::Drm("FairPlay")));
    let all = "#EXTM3U\n#EXT-X-SESSION-KEY:METHOD=SAMPLE-AES,URI=\"k\"\n#EXT-X-STREAM-INF:BANDWIDTH=1\na\n";
    assert_eq!(parse(all).unwrap_err(), PlaylistError::Protected("SAMPLE-AES".into()));
    assert!(matches!(parse("<html>"), Err(PlaylistError::Other(_))));
}

#[test]
fn unusual_playlists_are_read() {
    for text in [
        "#EXTM3U\n#EXT-X-TARGETDURATION:6\n",
        "#EXTM3U\n#EXTINF:6,\nseg.ts\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-PROGRAM-DATE-TIME:9999999-99-99T99:99:99Z\n#EXTINF:6,\nseg.ts\n",
        "#EXTM3U\n#EXT-X-DISCONTINUITY-SEQUENCE:9223372036854775807\n#EXTINF:6,\nseg.ts\n",
        "#EXTM3U\n#EXTINF:0,\na.ts\n#EXTINF:6,\nb.ts\n",
        "\n \n#EXTM3U\n\n#EXTINF:6\n\nseg.ts",
    ] {
        assert!(parse(text).is_ok(), "{text:?}: {:?}", parse(text));
    }
    let long =
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n{}", "#EXTINF:2,\n../a/segment.ts?key=value\n".repeat(43_200));
    assert_eq!(media(&long).segments.len(), 43_200);
    let base = Url::parse("http://h.example/live.m3u8").unwrap();
    let Ok(Playlist::Media(tail)) = Playlist::parse(&long, &base, &Variables::default(), 43_190) else { panic!() };
    assert_eq!((tail.sequence, tail.segments.len(), tail.target_ns), (43_190, 10, 2 * S));
}

#[test]
fn advertisement_breaks_with_dates_are_kept() {
    let read = media(
        "#EXTM3U\n#EXT-X-DATERANGE:ID=\"a\",START-DATE=\"1970-01-01T00:00:10Z\",DURATION=30,SCTE35-OUT=0xFC\n\
         #EXT-X-DATERANGE:ID=\"n\",START-DATE=\"1970-01-01T00:00:10Z\",CLASS=\"news\"\n#EXTINF:6,\nseg.ts\n",
    );
    let s = S as i64;
    assert_eq!(read.dated_breaks, [("a".into(), 10 * s, AdBreakEdge::Out), ("a".into(), 40 * s, AdBreakEdge::In)]);
}
