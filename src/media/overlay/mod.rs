//! The label on the picture: an SVG template, filled in with an estimate and drawn at the size of the picture.
//!
//! A template is an SVG file with places such as `{{title}}`, which `template` lists. Its root element has its place on the
//! picture: `data-position`, `data-size` (height, percent of the picture's shorter side) and `data-safe-area` (percent of each side that
//! stays free).

mod template;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, fontdb};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::template::Placement;

/// The largest template, bytes: more is a picture, not a label.
const TEMPLATE_MAX: u64 = 1 << 20;

/// The largest size, percent of the picture's shorter side.
pub const SIZE_MAX: u32 = 100;

/// The largest safe area, percent of each side.
pub const SAFE_AREA_MAX: u32 = 25;

/// The templates that ship, by name.
const TEMPLATES: [(&str, &str); 3] = [
    ("bug", include_str!("../../../pipelines/overlays/bug.svg")),
    ("label", include_str!("../../../pipelines/overlays/label.svg")),
    ("bars", include_str!("../../../pipelines/overlays/bars.svg")),
];

/// The template that is used by default.
pub const DEFAULT_TEMPLATE: &str = "label";

/// Where the label is on the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// At the top, on the left.
    TopLeft,
    /// At the top, in the middle.
    Top,
    /// At the top, on the right.
    TopRight,
    /// At the bottom, on the left.
    BottomLeft,
    /// At the bottom, in the middle.
    Bottom,
    /// At the bottom, on the right.
    BottomRight,
}

impl Position {
    /// The names, in the order of the variants.
    pub const NAMES: [&str; 6] = ["top-left", "top", "top-right", "bottom-left", "bottom", "bottom-right"];

    fn parse(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }

    /// The share of the free room that is on the left, and at the top.
    const fn shares(self) -> (f64, f64) {
        match self {
            Position::TopLeft => (0.0, 0.0),
            Position::Top => (0.5, 0.0),
            Position::TopRight => (1.0, 0.0),
            Position::BottomLeft => (0.0, 1.0),
            Position::Bottom => (0.5, 1.0),
            Position::BottomRight => (1.0, 1.0),
        }
    }
}

/// Which label, and where. A value that is [`None`] is the template's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayOptions {
    /// Name of a template that ships, or path of an SVG file; by default [`DEFAULT_TEMPLATE`].
    pub template: Option<String>,
    /// Position of the label on the picture.
    pub position: Option<Position>,
    /// Its height, percent of the picture's shorter side.
    pub size: Option<u32>,
    /// Margin between the label and each edge of the picture, percent.
    pub safe_area: Option<u32>,
    /// A font file in place of the system's sans-serif font.
    pub font: Option<PathBuf>,
}

/// A class with its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledClass {
    /// Name in records.
    pub name: String,
    /// Title for people.
    pub title: String,
    /// 0 to 1.
    pub probability: f32,
    /// sRGB.
    pub colour: [u8; 3],
}

/// What the label shows.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelContent {
    /// The answer.
    pub answer: LabelledClass,
    /// All classes, the most probable one first.
    pub classes: Vec<LabelledClass>,
    /// The models are not sure of the answer. Its title says so.
    pub is_unknown: bool,
}

/// The size of a picture, as it is stored and as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureSize {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Width of a pixel to its height.
    pub pixel_aspect: (u32, u32),
}

/// A drawn label.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Pixels from the left edge of the picture; even, as chroma needs it.
    pub x: u32,
    /// Rows from its top; even.
    pub y: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// sRGB with straight alpha, four bytes a pixel, packed.
    pub rgba: Vec<u8>,
}

/// A template that can be drawn.
#[derive(Clone)]
pub struct Overlay {
    text: Arc<str>,
    placement: Placement,
    fonts: Arc<fontdb::Database>,
}

impl Overlay {
    /// Reads the template and the fonts, and draws it once for a check.
    ///
    /// # Errors
    /// One line: which template or font cannot be used, why, and what to do.
    pub fn new(options: &OverlayOptions) -> Result<Self, String> {
        let name = options.template.as_deref().unwrap_or(DEFAULT_TEMPLATE);
        let shown = || name.escape_debug();
        let text: Arc<str> = match TEMPLATES.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).into(),
            None => read(Path::new(name)).map_err(|e| {
                let names = TEMPLATES.map(|(name, _)| name).join(", ");
                format!("overlay template {}: {e}; give {names} or the path of an SVG file", shown())
            })?,
        };
        let wrong = |e: String| format!("overlay template {}: {e}; correct the SVG file", shown());
        let placement = Placement::of(&text).map_err(wrong)?.with(options);
        let overlay = Self { text, placement, fonts: Arc::new(fonts(options.font.as_deref())?) };
        overlay.tree(&LabelContent::sample()).map_err(wrong)?;
        Ok(overlay)
    }

    fn tree(&self, content: &LabelContent) -> Result<usvg::Tree, String> {
        let text = template::filled(&self.text, content)?;
        let options = usvg::Options { fontdb: self.fonts.clone(), ..usvg::Options::default() };
        usvg::Tree::from_str(&text, &options).map_err(|e| e.to_string())
    }

    /// The label on a picture of this size; [`None`] if the picture is too small for one.
    pub fn draw(&self, content: &LabelContent, picture: PictureSize) -> Option<Drawing> {
        let tree = self.tree(content).ok()?;
        let (tree_width, tree_height) = (f64::from(tree.size().width()), f64::from(tree.size().height()));
        let (stretch_n, stretch_d) = picture.pixel_aspect;
        let stretch = f64::from(stretch_n.max(1)) / f64::from(stretch_d.max(1));
        let (shown_width, shown_height) = (f64::from(picture.width) * stretch, f64::from(picture.height));
        let free = 1.0 - 2.0 * self.placement.safe_area;
        let (room_width, room_height) = (shown_width * free, shown_height * free);
        let scale = (shown_width.min(shown_height) * self.placement.size / tree_height)
            .min(room_width / tree_width)
            .min(room_height / tree_height);
        let (across, down) = (scale / stretch, scale);
        // Whole pairs of pixels: pictures have one chroma sample for two pixels.
        let pairs = |length: f64, most: u32| (2 * (length / 2.0).ceil().max(0.0) as u32).min(most & !1);
        let (width, height) = (pairs(tree_width * across, picture.width), pairs(tree_height * down, picture.height));
        let place = |share: f64, side: u32, length: u32| {
            let margin = f64::from(side) * self.placement.safe_area;
            let at = margin + (f64::from(side) - 2.0 * margin - f64::from(length)) * share;
            (at.max(0.0) as u32 & !1).min((side - length) & !1)
        };
        let (left, top) = self.placement.position.shares();
        let (x, y) = (place(left, picture.width, width), place(top, picture.height, height));
        let mut pixels = Pixmap::new(width, height)?;
        resvg::render(&tree, Transform::from_scale(across as f32, down as f32), &mut pixels.as_mut());
        let rgba = pixels.pixels().iter().flat_map(|pixel| {
            let colour = pixel.demultiply();
            [colour.red(), colour.green(), colour.blue(), colour.alpha()]
        });
        Some(Drawing { x, y, width, height, rgba: rgba.collect() })
    }
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("placement", &self.placement).finish_non_exhaustive()
    }
}

impl LabelContent {
    /// One with which a template is checked.
    fn sample() -> Self {
        let (name, title) = ("tabletennis".into(), "Table tennis".into());
        let class = LabelledClass { name, title, probability: 0.5, colour: [128; 3] };
        Self { answer: class.clone(), classes: vec![class], is_unknown: false }
    }
}

fn read(path: &Path) -> Result<Arc<str>, String> {
    let failed = |e: std::io::Error| {
        let text = e.to_string();
        text.split(" (os error").next().unwrap_or_default().to_lowercase()
    };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err("this is not a file".into());
    }
    if meta.len() > TEMPLATE_MAX {
        return Err(format!("it is larger than {} KiB", TEMPLATE_MAX >> 10));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    String::from_utf8(bytes).map(Into::into).map_err(|_| "it is not text in UTF-8".into())
}

/// The fonts of the system, with `font` as the sans-serif one if it is given.
fn fonts(font: Option<&Path>) -> Result<fontdb::Database, String> {
    let mut fonts = fontdb::Database::new();
    if let Some(path) = font {
        let shown = path.display().to_string();
        let unusable = |e: &dyn std::fmt::Display| {
            format!("overlay font {}: {e}; give a TrueType or OpenType file", shown.escape_debug())
        };
        fonts.load_font_file(path).map_err(|e| unusable(&e))?;
        let family = fonts.faces().next().and_then(|face| Some(face.families.first()?.0.clone()));
        let family = family.ok_or_else(|| unusable(&"it has no font"))?;
        fonts.load_system_fonts();
        fonts.set_sans_serif_family(family);
        return Ok(fonts);
    }
    fonts.load_system_fonts();
    let sans_serif = fontdb::Query { families: &[fontdb::Family::SansSerif], ..fontdb::Query::default() };
    if fonts.query(&sans_serif).is_none() {
        let families = || fonts.faces().filter_map(|face| Some(face.families.first()?.0.clone()));
        let family = families().find(|family| family == "DejaVu Sans").or_else(|| families().next());
        let advice = "install one, such as the package fonts-dejavu-core, or give a font file";
        let family = family.ok_or_else(|| format!("there is no font on this machine; {advice}"))?;
        fonts.set_sans_serif_family(family);
    }
    Ok(fonts)
}

#[cfg(test)]
mod tests;
