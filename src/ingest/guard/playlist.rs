//! Playlists whose every address leads through the passage.

use url::Url;

/// Whether `bytes` begin like a playlist. More is taken for one than players would.
pub(super) fn is_playlist(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.trim_ascii_start().starts_with(b"#EXTM3U")
}

/// The longest that a playlist may become: addresses through the passage are longer than those that they stand for.
const REWRITTEN_MAX: usize = 16 << 20;

/// `text`, which came from `base`, with `through` applied to every address in it; [`None`] when that would be too long.
///
/// What is no address stays as it is, but line ends become `\n`. An address that cannot be joined to `base` becomes empty.
pub fn rewrite(text: &str, base: &Url, through: &dyn Fn(&Url) -> String) -> Option<String> {
    let mut out = String::with_capacity(2 * text.len());
    let passage = |address: &str| base.join(address).map(|url| through(&url)).unwrap_or_default();
    for line in text.trim_start_matches('\u{feff}').split(['\n', '\r']).map(str::trim) {
        match line {
            "" => continue,
            tag if tag.starts_with('#') => rewrite_tag(tag, &passage, &mut out)?,
            address => out.push_str(&passage(address)),
        }
        out.push('\n');
        if out.len() > REWRITTEN_MAX {
            return None;
        }
    }
    Some(out)
}

/// Copies a tag with what stands after `URI=` gated, quoted or not.
fn rewrite_tag(tag: &str, passage: &dyn Fn(&str) -> String, out: &mut String) -> Option<()> {
    let mut rest = tag;
    while let Some((before, value)) = split_uri(rest) {
        out.push_str(before);
        out.push_str("=\"");
        let (address, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => value.split_at(value.find(',').unwrap_or(value.len())),
        };
        out.push_str(&passage(address.trim()));
        out.push('"');
        rest = after;
        if out.len() > REWRITTEN_MAX {
            return None;
        }
    }
    out.push_str(rest);
    Some(())
}

/// The text up to and with the next attribute whose name ends in `URI`, and what follows its `=`.
fn split_uri(text: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.to_ascii_uppercase().find("URI")?;
        let name_end = at + 3;
        let after = text.get(name_end..)?.trim_start();
        match after.strip_prefix('=') {
            Some(value) => return Some((&text[..name_end], value.trim_start())),
            None => from = name_end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gated(text: &str) -> String {
        let base = Url::parse("https://ann:pw@h.example/a/live.m3u8?t=1").unwrap();
        rewrite(text, &base, &|url| format!("<{url}>")).unwrap()
    }

    #[test]
    fn every_address_goes_through() {
        let text = "\u{feff}#EXTM3U\r\n#EXT-X-TARGETDURATION:2\r\n\
            #EXT-X-KEY:METHOD=AES-128,URI=\"key.bin\",IV=0x1\n#EXT-X-MAP:URI=init.mp4,BYTERANGE=\"1@0\"\n\
            #EXT-X-MEDIA:TYPE=AUDIO,NAME=\"URI, CURIOUS\", uri = \"//other.example/a.m3u8\"\n\
            #EXTINF:2.0,title\n1.ts\n#EXTINF:2.0,\nhttp://127.0.0.1/2.ts\rfile:///etc/passwd\n../3.ts\n";
        assert_eq!(
            gated(text),
            "#EXTM3U\n#EXT-X-TARGETDURATION:2\n\
             #EXT-X-KEY:METHOD=AES-128,URI=\"<https://ann:pw@h.example/a/key.bin>\",IV=0x1\n\
             #EXT-X-MAP:URI=\"<https://ann:pw@h.example/a/init.mp4>\",BYTERANGE=\"1@0\"\n\
             #EXT-X-MEDIA:TYPE=AUDIO,NAME=\"URI, CURIOUS\", uri=\"<https://other.example/a.m3u8>\"\n\
             #EXTINF:2.0,title\n<https://ann:pw@h.example/a/1.ts>\n#EXTINF:2.0,\n<http://127.0.0.1/2.ts>\n\
             <file:///etc/passwd>\n<https://ann:pw@h.example/3.ts>\n"
        );
    }

    #[test]
    fn hostile_text_is_rewritten_to_its_end() {
        for text in
            ["#EXTM3U\n#X:URI", "#EXTM3U\n#X:URI=", "#EXTM3U\n#X:URI=\"", "#X:uri=\"a\"URI=b,URI=\"c", "#ÜRI=ß,URIé=x"]
        {
            let out = gated(text);
            assert!(!out.contains("=b") && !out.contains("\"c"), "{out}");
        }
        assert_eq!(gated("http://[bad/\n"), "\n");
        assert!(is_playlist(b"\xef\xbb\xbf \n#EXTM3U"));
        assert!(!is_playlist(b"<html>"));
    }

    #[test]
    fn short_lines_that_become_long_are_too_much_in_the_end() {
        let base = Url::parse("https://h.example/live.m3u8").unwrap();
        let through = |_: &Url| "x".repeat(1000);
        for text in
            ["#EXTM3U\n".to_owned() + &"a\n".repeat(100_000), "#EXTM3U\n#X:".to_owned() + &"URI=a,".repeat(100_000)]
        {
            assert_eq!(rewrite(&text, &base, &through), None);
        }
    }
}
