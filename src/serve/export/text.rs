//! Names from outside, made safe for files that other programs read.

use touchline_core::markup;

pub use markup::plain;

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
