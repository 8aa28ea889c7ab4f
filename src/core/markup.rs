//! Text in HTML and other markup.

/// Escapes text for HTML and WebVTT, including attributes.
pub fn escaped(text: impl IntoIterator<Item = char>) -> String {
    let mut out = String::new();
    for c in text {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Replaces characters that would break a line, or that show other text than there is: control characters, line separators,
/// controls of the direction of writing, and invisible characters.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// Whether a character neither breaks a line nor hides what a text contains. The joiners U+200C and U+200D are harmless: writing in
/// several scripts needs them.
pub const fn is_harmless(c: char) -> bool {
    let is_control = matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}');
    let is_separator = matches!(c, '\u{2028}' | '\u{2029}');
    let is_direction = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}');
    // Soft hyphens, spaces without width, isolates (U+2066 to U+2069) and other format characters, byte order marks, and tags.
    let is_invisible = matches!(
        c,
        '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}'
    );
    !(is_control || is_separator || is_direction || is_invisible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_invisible_characters_are_replaced() {
        let harmful =
            ['\n', '\u{7f}', '\u{ad}', '\u{200b}', '\u{200f}', '\u{2028}', '\u{2060}', '\u{feff}', '\u{e0041}'];
        for c in harmful.into_iter().chain('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert_eq!(plain(&format!("a{c}b")), "a\u{fffd}b", "{c:?}");
        }
        for text in ["Fußball – 決勝", "\u{645}\u{6cc}\u{200c}\u{62e}", "👩\u{200d}🏫", "क्\u{200d}ष"] {
            assert_eq!(plain(text), text);
        }
    }
}
