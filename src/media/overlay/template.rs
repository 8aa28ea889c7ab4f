//! The text of a template: its place on the picture, and the places that are filled in.

use resvg::usvg::roxmltree;
use touchline_core::markup::escaped;

use super::{LabelContent, LabelledClass, OverlayOptions, Position, SAFE_AREA_MAX, SIZE_MAX};

/// Where a template is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Placement {
    pub position: Position,
    /// Height, as a share of the picture's shorter side.
    pub size: f64,
    /// Margin between the label and each edge of the picture, as a share.
    pub safe_area: f64,
}

impl Placement {
    /// That of the template's root element. What it does not have is at the bottom left, 10 % high, and leaves 5 % free (the safe area
    /// for graphics of EBU R 95).
    ///
    /// # Errors
    /// The attribute that is not valid, or the place where the text is not XML.
    pub fn of(text: &str) -> Result<Self, String> {
        let text = filled(text, &LabelContent::sample())?;
        let document = roxmltree::Document::parse(&text).map_err(|e| e.to_string())?;
        let root = document.root_element();
        let percent = |name: &str, default: u32, most: u32| match root.attribute(name) {
            None => Ok(f64::from(default) / 100.0),
            Some(text) => match text.parse::<f64>() {
                Ok(value) if (0.0..=f64::from(most)).contains(&value) => Ok(value / 100.0),
                _ => Err(format!("{name} {text:?} is not a number from 0 to {most}")),
            },
        };
        let position = root.attribute("data-position").unwrap_or("bottom-left");
        let known = Position::NAMES.join(", ");
        Ok(Self {
            position: Position::parse(position)
                .ok_or_else(|| format!("data-position {position:?} is not one of {known}"))?,
            size: percent("data-size", 10, SIZE_MAX)?,
            safe_area: percent("data-safe-area", 5, SAFE_AREA_MAX)?,
        })
    }

    /// With the values of the options in place of the template's.
    pub fn with(self, options: &OverlayOptions) -> Self {
        let share = |percent: Option<u32>, own: f64| percent.map_or(own, |percent| f64::from(percent) / 100.0);
        Self {
            position: options.position.unwrap_or(self.position),
            size: share(options.size, self.size),
            safe_area: share(options.safe_area, self.safe_area),
        }
    }
}

/// The text with its places filled in: `{{title}}`, `{{percent}}`, `{{share}}` (0 to 1) and `{{colour}}` of the answer, and the same of
/// the classes by probability, as in `{{title.1}}`. Those of a class that the pack does not have are empty.
///
/// # Errors
/// The place that is not known.
pub(super) fn filled(text: &str, content: &LabelContent) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (place, after) = after.split_once("}}").ok_or("a {{ has no }}")?;
        let unknown = || {
            let place: String = place.chars().take(40).collect();
            format!(
                "{{{{{}}}}} is not known; there are title, percent, share and colour, and title.1 …",
                place.escape_debug()
            )
        };
        let (name, class) = match place.split_once('.') {
            None => (place, Some(&content.answer)),
            Some((name, number)) => {
                let number: usize = number.parse().map_err(|_| unknown())?;
                (name, content.classes.get(number.checked_sub(1).ok_or_else(unknown)?))
            }
        };
        out.push_str(&value(name, class).ok_or_else(unknown)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn value(name: &str, class: Option<&LabelledClass>) -> Option<String> {
    Some(match (name, class) {
        // XML has no control characters.
        ("title", class) => escaped(class.map_or("", |class| &class.title).chars().filter(|c| !c.is_control())),
        ("percent", Some(class)) => format!("{:.0}", class.probability * 100.0),
        ("percent", None) => String::new(),
        // SVG does not draw what a scale of 0 makes, and some readers refuse it.
        ("share", class) => format!("{:.4}", class.map_or(0.0, |class| class.probability).clamp(0.0001, 1.0)),
        ("colour", Some(LabelledClass { colour: [r, g, b], .. })) => format!("#{r:02x}{g:02x}{b:02x}"),
        ("colour", None) => "none".to_owned(),
        _ => return None,
    })
}
