//! Names from outside, made safe for files that other programs read.

use touchline_core::markup;

/// Replaces characters that would break a line, or that show other text than there is: control characters, line separators,
/// and controls of the direction of writing.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '\u{fffd}' }).collect()
}

const fn is_harmless(c: char) -> bool {
    let is_control = matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}');
    let is_separator = matches!(c, '\u{2028}' | '\u{2029}');
    let is_direction =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    // Byte order marks and tags are invisible as well.
    let is_invisible = matches!(c, '\u{200b}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !(is_control || is_separator || is_direction || is_invisible)
}

/// At most `limit` characters of `text`.
pub(super) fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit - 1).chain(['…']).collect()
}

/// A name made safe with [`plain`] and escaped for HTML and WebVTT.
pub(super) fn escaped(text: &str) -> String {
    markup::escaped(plain(text).chars())
}

/// The last part of a path or URL.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_safe() {
        assert_eq!(
            plain("a\nb\u{202e}4pm.exe\u{7f}\u{85}\u{2028}"),
            "a\u{fffd}b\u{fffd}4pm.exe\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(plain("Fußball/\"größte\" Spiele – 決勝"), "Fußball/\"größte\" Spiele – 決勝");
        assert_eq!(escaped("<a href='x'>&\"\u{0}"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;\u{fffd}");
        assert_eq!((shortened("abcdef", 4).as_str(), shortened("abcd", 4).as_str()), ("abc…", "abcd"));
        assert_eq!((file_name("/a/b.mp4"), file_name("b.mp4"), file_name("/")), ("b.mp4", "b.mp4", "/"));
    }
}
