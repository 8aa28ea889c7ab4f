//! Names the kind of a response by its first bytes, for error messages.

/// Bytes that are inspected.
pub(super) const HEAD: usize = 4096;

/// The name of the format of `bytes`, for responses that are not playlists.
pub(crate) fn name(bytes: &[u8]) -> &'static str {
    let head = &bytes[..bytes.len().min(HEAD)];
    let text = String::from_utf8_lossy(head).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    let starts = |what: &[&str]| what.iter().any(|w| text.starts_with(w));
    if is_utf16(head) {
        "text in UTF-16; playlists must be UTF-8"
    } else if text.is_empty() {
        "an empty answer"
    } else if text.contains("<mpd") {
        "a DASH manifest, which is not supported; most servers offer HLS as well"
    } else if text.contains("<smoothstreamingmedia") {
        "a Smooth Streaming manifest, which is not supported; most servers offer HLS as well"
    } else if starts(&["<!doctype html", "<html", "<head", "<body"]) || text.contains("<html") {
        "a web page"
    } else if starts(&["<?xml", "<"]) {
        "an XML document"
    } else if starts(&["[playlist]", "#extm3u"]) {
        "a list of channels"
    } else if starts(&["{", "["]) {
        "a JSON document"
    } else if head.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        "text"
    } else {
        "an unknown format"
    }
}

/// Whether `head` begins like UTF-16, with or without a byte order mark: every other byte is 0.
pub(super) fn is_utf16(head: &[u8]) -> bool {
    let text = match head {
        [0xff, 0xfe, rest @ ..] | [0xfe, 0xff, rest @ ..] => rest,
        all => all,
    };
    let zeros = |from: usize| text.iter().take(16).skip(from).step_by(2).filter(|b| **b == 0).count();
    text.len() >= 16 && matches!((zeros(0), zeros(1)), (0, 8) | (8, 0))
}

/// Whether a text that begins like a playlist is an IPTV list of channels: it has no HLS tags.
pub(super) fn is_channel_list(text: &str) -> bool {
    !text.contains("#EXT-X-") && text.lines().any(|line| line.contains("tvg-") || line.trim_start().contains("://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_answers_are_named() {
        for (text, expected) in [
            ("<html><body>login</body></html>", "a web page"),
            ("\n<!DOCTYPE html>", "a web page"),
            ("<?xml version=\"1.0\"?>\n<MPD xmlns=\"u\">", "a DASH manifest"),
            ("<?xml version=\"1.0\"?><rss/>", "an XML document"),
            ("{\"error\": 1}", "a JSON document"),
            ("what", "text"),
            ("", "an empty answer"),
            ("#\0E\0X\0T\0M\x003\0U\0\n\0", "text in UTF-16"),
            ("\u{1}\u{2}", "an unknown format"),
        ] {
            assert!(name(text.as_bytes()).starts_with(expected), "{text}: {}", name(text.as_bytes()));
        }
        assert!(is_channel_list("#EXTM3U\n#EXTINF:-1 tvg-id=\"a\",A\nhttp://h.example/a.ts\n"));
        assert!(!is_channel_list("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://h.example/a.ts\n"));
        assert!(!is_channel_list("#EXTM3U\n#EXTINF:6,\nseg.ts\n"));
    }
}
