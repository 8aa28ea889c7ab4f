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
/// and controls of the direction of writing.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// Whether a character neither breaks a line nor hides what a text contains.
pub const fn is_harmless(c: char) -> bool {
    let is_control = matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}');
    let is_separator = matches!(c, '\u{2028}' | '\u{2029}');
    let is_direction =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    // Byte order marks and tags are invisible as well.
    let is_invisible = matches!(c, '\u{200b}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !(is_control || is_separator || is_direction || is_invisible)
}
