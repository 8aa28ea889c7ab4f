//! The colours of classes: those of the live page (`colours.js`, which has the reasons), for CSS, for pictures and for markers.

use crate::labels::OTHER;

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
const LIGHT: [(f64, f64); 2] = [(0.645, 0.155), (0.5, 0.145)];
const DARK: [(f64, f64); 2] = [(0.79, 0.135), (0.635, 0.15)];

/// Of [`OTHER`] and of a class that is not known: lightness and chroma, light and dark, and the hue.
const GRAY: [(f64, f64); 2] = [(0.62, 0.012), (0.66, 0.012)];
const GRAY_HUE: usize = 250;

const DARK_INK: &str = "#0b0e12";

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
    if class == OTHER { None } else { slot(class).or_else(|| Some(other_slot(class))) }
}

/// A colour and a readable text colour on it, for CSS.
#[derive(Debug, PartialEq)]
pub struct CssColour {
    /// The colour.
    pub fill: String,
    /// The text colour.
    pub ink: &'static str,
}

/// The colour of a class in light and in dark.
pub fn css(class: &str) -> [CssColour; 2] {
    let of = |(lightness, chroma): (f64, f64), hue: usize, ink| CssColour {
        fill: format!("oklch({lightness} {chroma} {hue})"),
        ink,
    };
    let Some((hue, tier)) = hue_and_tier(class) else {
        return GRAY.map(|gray| of(gray, GRAY_HUE, DARK_INK));
    };
    // Only the second tier in light is so dark that white is more readable on it.
    let ink = if tier == 0 { DARK_INK } else { "#ffffff" };
    [of(LIGHT[tier], hue, ink), of(DARK[tier], hue, DARK_INK)]
}

/// The colour of a class on pictures, sRGB: that of the dark page, because labels on pictures have a dark ground.
pub fn rgb(class: &str) -> [u8; 3] {
    let ((lightness, chroma), hue) = match hue_and_tier(class) {
        Some((hue, tier)) => (DARK[tier], hue),
        None => (GRAY[1], GRAY_HUE),
    };
    from_oklch(lightness, chroma, hue as f64)
}

/// OKLCH to sRGB, with the chroma reduced until the colour is in gamut (B. Ottosson, "A perceptual color space for image processing",
/// 2020).
fn from_oklch(lightness: f64, chroma: f64, hue_degrees: f64) -> [u8; 3] {
    let (sin, cos) = hue_degrees.to_radians().sin_cos();
    let mut chroma = chroma;
    loop {
        let (a, b) = (chroma * cos, chroma * sin);
        let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
        let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
        let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548 * b).powi(3);
        let linear = [
            4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
            -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
            -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701 * s,
        ];
        if chroma <= 0.0 || linear.iter().all(|v| (0.0..=1.0).contains(v)) {
            return linear.map(|v| {
                let v = v.clamp(0.0, 1.0);
                let v = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
                (v * 255.0).round() as u8
            });
        }
        chroma -= 0.005;
    }
}

/// The colour of a marker in edit suites, which know few.
pub fn marker(class: Option<&str>) -> &'static str {
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
        let page = include_str!("../serve/http/page/colours.js");
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
        // What a browser makes of the page's `oklch(0.79 0.135 197)`, within a step for its rounding.
        let near = |class, expected: [u8; 3]| {
            let found = rgb(class);
            assert!(found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 1), "{class}: {found:?}");
        };
        near("tennis", [0, 213, 212]);
        assert_eq!(rgb("other"), rgb("other"));
        assert!(rgb("soccer") != rgb("rugby"));
        assert_eq!(marker(Some("other")), "WHITE");
    }
}
