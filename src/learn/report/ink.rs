//! Colours of the charts, and the conversion of plotters' SVG to SVG for the page.
//!
//! plotters supports fixed colours only. Each role in a chart is therefore drawn in a placeholder colour, which is then replaced by
//! a class. The style sheet defines its colour for light and dark mode. Drawings are [`SCALE`] times as large as in the page, because
//! plotters rounds to whole pixels.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::html::escaped;

/// Units of a drawing per pixel of the page.
pub(super) const SCALE: i32 = 4;

/// Size of the text in charts, in pixels at full size.
pub(super) const TEXT_PX: f64 = 12.0;

/// Role of a stroke or area. The colours of the series are those of M. Okabe and K. Ito (*Color Universal Design*, 2008), which are
/// distinguishable with any colour vision, adjusted in lightness for contrast with the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Role {
    Ink,
    Quiet,
    Grid,
    Blue,
    Orange,
    Green,
    Purple,
    Red,
    /// Orange, dashed: validation beside training.
    DashedOrange,
    DashedQuiet,
    DashedGreen,
    DashedRed,
    Heat,
    /// Text on `Heat`.
    OnHeat,
}

/// Length of a dash and of the gap after it, in pixels.
type Dashes = Option<(i32, i32)>;

/// Role, variable of the style sheet, dashes.
const ROLES: [(Role, &str, Dashes); 14] = [
    (Role::Ink, "--ink", None),
    (Role::Quiet, "--quiet", None),
    (Role::Grid, "--line", None),
    (Role::Blue, "--blue", None),
    (Role::Orange, "--orange", None),
    (Role::Green, "--green", None),
    (Role::Purple, "--purple", None),
    (Role::Red, "--red", None),
    (Role::DashedOrange, "--orange", Some((7, 4))),
    (Role::DashedQuiet, "--quiet", Some((3, 4))),
    (Role::DashedGreen, "--green", Some((9, 3))),
    (Role::DashedRed, "--red", Some((3, 3))),
    (Role::Heat, "--heat", None),
    (Role::OnHeat, "--on-heat", None),
];

/// Red and green of the placeholder colours; blue is the role. No other colours are drawn.
const MARKER: (u8, u8) = (0xFA, 0xCE);

impl Role {
    /// The placeholder colour.
    pub(super) const fn colour(self) -> RGBColor {
        RGBColor(MARKER.0, MARKER.1, self as u8)
    }

    /// A stroke with a width of `px` pixels.
    pub(super) fn stroke(self, px: f64) -> ShapeStyle {
        self.colour().stroke_width((px * f64::from(SCALE)).round() as u32)
    }

    /// An area with the opacity `share`, 0 to 1.
    pub(super) fn fill(self, share: f64) -> ShapeStyle {
        // Two decimals are visually enough and keep the file small.
        self.colour().mix((share.clamp(0.0, 1.0) * 100.0).round() / 100.0).filled()
    }

    /// Returns the symbol in a legend; `kind` is `line` or `box`.
    pub(super) fn sample(self, kind: &str) -> String {
        let n = self as u8;
        if kind == "line" {
            format!(
                "<svg class=\"key\" viewBox=\"0 0 88 40\" aria-hidden=\"true\"><path class=\"s{n}\" d=\"M2 20h84\" stroke-width=\"11\"/></svg>"
            )
        } else {
            format!(
                "<svg class=\"key\" viewBox=\"0 0 48 40\" aria-hidden=\"true\"><rect class=\"f{n}\" x=\"4\" y=\"2\" width=\"38\" height=\"36\" rx=\"8\"/></svg>"
            )
        }
    }
}

/// Returns the style of all roles: classes `f…` for areas, `s…` for strokes.
pub(super) fn role_styles() -> String {
    let mut css = String::new();
    for (role, variable, dashes) in ROLES {
        let n = role as u8;
        let dashes =
            dashes.map_or(String::new(), |(on, off)| format!(";stroke-dasharray:{} {}", on * SCALE, off * SCALE));
        css.push_str(&format!(".f{n}{{fill:var({variable})}}.s{n}{{stroke:var({variable}){dashes}}}\n"));
    }
    css
}

/// Returns the style of text in a chart.
pub(super) fn text(role: Role, px: f64, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    // plotters treats the size as the height of a line and writes it divided by 1.24.
    let size = px * f64::from(SCALE) * 1.24;
    TextStyle {
        font: ("sans-serif", size).into_font(),
        color: role.colour().to_backend_color(),
        pos: Pos::new(horizontal, vertical),
    }
}

/// Estimates the width of text in pixels at the standard size, rather too large.
pub(super) fn text_width(text: &str) -> i32 {
    (text.chars().count() as f64 * TEXT_PX * 0.54).ceil() as i32
}

/// Shortens a name to at most `characters` characters.
pub(super) fn shortened(name: &str, characters: usize) -> String {
    if name.chars().count() <= characters {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(characters.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Converts a drawing of plotters to a part of the page: roles become classes, title and description are added for screen readers,
/// and attributes that the style sheet sets are removed.
pub(super) fn page_svg(drawing: &str, (width, height): (i32, i32), title: &str, description: &str) -> String {
    let body = drawing.split_once(">\n").map_or("", |(_, body)| body);
    let mut body = body.trim_end().trim_end_matches("</svg>").to_owned();
    for (role, ..) in ROLES {
        let n = role as u8;
        let hex = format!("#{:02X}{:02X}{n:02X}", MARKER.0, MARKER.1);
        body = body
            .replace(&format!("fill=\"{hex}\""), &format!("class=\"f{n}\""))
            .replace(&format!("stroke=\"{hex}\""), &format!("class=\"s{n}\""));
    }
    for (long, short) in [
        (" font-family=\"sans-serif\"", ""),
        (" opacity=\"1\"", ""),
        (" stroke=\"none\"", ""),
        (" text-anchor=\"start\"", ""),
        ("\n</text>", "</text>"),
    ] {
        body = body.replace(long, short);
    }
    let (w, h) = (width * SCALE, height * SCALE);
    format!(
        "<svg class=\"chart\" role=\"img\" viewBox=\"0 0 {w} {h}\" style=\"--w:{width}px\"><title>{}</title><desc>{}</desc>\n\
         {body}</svg>",
        escaped(title),
        escaped(description)
    )
}

/// Formats a number on an axis, as short as possible.
pub(super) fn tick(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude < 1e-12 {
        return "0".into();
    }
    if !(1e-4..1e5).contains(&magnitude) {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    let decimals = match magnitude {
        0.0..0.01 => 5,
        0.01..10.0 => 3,
        10.0..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
