//! The colours of classes: those of the live page (`colours.js`, which has the reasons), and the nearest ones of markers.

/// Classes by hue, in two tiers of lightness. `None` is a free slot.
const FIRST: [&str; 13] = [
    "formula1",
    "basketball",
    "athletics",
    "bowling",
    "soccer",
    "golf",
    "tennis",
    "icehockey",
    "americanfootball",
    "volleyball",
    "badminton",
    "baseball",
    "boxing",
];
const SECOND: [Option<&str>; 13] = [
    Some("wrestling"),
    Some("handball"),
    Some("cycling"),
    None,
    Some("rugby"),
    Some("cricket"),
    Some("fieldhockey"),
    Some("swimming"),
    Some("skiing"),
    Some("football"),
    Some("lacrosse"),
    Some("gymnastics"),
    Some("tabletennis"),
];
const FIRST_HUE: usize = 28;

/// Lightness and chroma of each tier, light and dark.
const LIGHT: [(&str, &str); 2] = [("0.645", "0.155"), ("0.5", "0.145")];
const DARK: [(&str, &str); 2] = [("0.79", "0.135"), ("0.635", "0.15")];

/// A hue in degrees and a tier.
fn slot(class: &str) -> Option<(usize, usize)> {
    let hue = |at: usize| FIRST_HUE + at * 360 / FIRST.len();
    let first = FIRST.iter().position(|known| *known == class).map(|at| (hue(at), 0));
    first.or_else(|| SECOND.iter().position(|known| *known == Some(class)).map(|at| (hue(at), 1)))
}

/// A hue for a class of another pack, which depends on its name only.
fn other_slot(class: &str) -> (usize, usize) {
    let sum = class.bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    (FIRST_HUE + sum % FIRST.len() * 360 / FIRST.len(), 1)
}

fn hue_and_tier(class: &str) -> Option<(usize, usize)> {
    if class == touchline_core::labels::OTHER { None } else { slot(class).or_else(|| Some(other_slot(class))) }
}

/// A colour and a readable text colour on it, for CSS.
#[derive(Debug, PartialEq)]
pub(super) struct CssColour {
    pub fill: String,
    pub ink: &'static str,
}

/// The colour of a class in light and in dark.
pub(super) fn css(class: &str) -> [CssColour; 2] {
    const DARK_INK: &str = "#0b0e12";
    let of = |(lightness, chroma): (&str, &str), hue: usize, ink| CssColour {
        fill: format!("oklch({lightness} {chroma} {hue})"),
        ink,
    };
    let Some((hue, tier)) = hue_and_tier(class) else {
        return [of(("0.62", "0.012"), 250, DARK_INK), of(("0.66", "0.012"), 250, DARK_INK)];
    };
    // Only the second tier in light is so dark that white is more readable on it.
    let ink = if tier == 0 { DARK_INK } else { "#ffffff" };
    [of(LIGHT[tier], hue, ink), of(DARK[tier], hue, DARK_INK)]
}

/// The colour of a marker in edit suites, which know few.
pub(super) fn marker(class: Option<&str>) -> &'static str {
    match class.and_then(hue_and_tier).map(|(hue, _)| hue % 360) {
        None => "WHITE",
        Some(15..45) => "RED",
        Some(45..75) => "ORANGE",
        Some(75..115) => "YELLOW",
        Some(115..165) => "GREEN",
        Some(165..225) => "CYAN",
        Some(225..280) => "BLUE",
        Some(280..320) => "PURPLE",
        Some(320..350) => "MAGENTA",
        Some(_) => "PINK",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_the_slots_of_the_live_page() {
        let page = include_str!("../page/colours.js");
        let list = |name: &str| {
            let text = page.split_once(&format!("const {name} = [")).unwrap().1.split_once("];").unwrap().0;
            let items = text.split(',').map(|item| item.trim().trim_matches('"').to_owned());
            items.filter(|item| !item.is_empty()).collect::<Vec<_>>()
        };
        assert_eq!(list("FIRST"), FIRST);
        assert_eq!(list("SECOND"), SECOND.map(|class| class.unwrap_or("null")));
        assert!(page.contains("FIRST_HUE = 28;"));
        for (theme, tiers) in [("light", LIGHT), ("dark", DARK)] {
            let [(l1, c1), (l2, c2)] = tiers;
            assert!(page.contains(&format!("{theme}: [[{l1}, {c1}], [{l2}, {c2}]]")), "{theme}");
        }
    }

    #[test]
    fn every_class_has_a_colour() {
        assert_eq!(css("formula1")[0].fill, "oklch(0.645 0.155 28)");
        assert_eq!((css("cycling")[0].ink, css("cycling")[1].ink), ("#ffffff", "#0b0e12"));
        assert_eq!((marker(Some("soccer")), marker(Some("tennis")), marker(None)), ("GREEN", "CYAN", "WHITE"));
        assert_eq!(css("padel"), css("padel"));
        assert_eq!(marker(Some("other")), "WHITE");
    }
}
