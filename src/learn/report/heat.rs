//! Confusion matrices as heat maps.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::chart::{broken, units};
use super::ink::{Role, SCALE, TEXT_PX, page_svg, shortened, text, text_width};
use touchline_core::error::Result;

/// Width of all cells together in pixels, for many classes.
const CELLS_PX: i32 = 720;

/// Longer names are shortened.
const NAME_CHARACTERS: usize = 22;

/// Draws the matrix `counts[truth][predicted]` as SVG, with the shares of each row as colour and the counts as text.
///
/// # Errors
/// When the library cannot draw it, which is a defect of this module.
pub(super) fn confusion(title: &str, classes: &[String], counts: &[Vec<u64>]) -> Result<String> {
    let names: Vec<String> = classes.iter().map(|c| shortened(c, NAME_CHARACTERS)).collect();
    let n = names.len() as i32;
    let cell = (CELLS_PX / n.max(1)).clamp(12, 44);
    let label = names.iter().map(|c| text_width(c)).max().unwrap_or(0) + 12;
    // The names of the axes are above and to the left of the classes.
    let (left, top) = (label + 24, label + 24);
    let size = (left + n * cell + 8, top + n * cell + 8);
    let right: u64 = counts.iter().enumerate().filter_map(|(i, row)| row.get(i)).sum();
    let all: u64 = counts.iter().flatten().sum();
    let description = format!("{} classes; {right} of {all} samples are right, on the diagonal.", classes.len());
    let mut drawing = String::new();
    draw(&mut drawing, size, (left, top), cell, &names, counts).map_err(|e| broken(title, &e))?;
    Ok(page_svg(&drawing, size, title, &description))
}

fn draw(
    drawing: &mut String,
    size: (i32, i32),
    (left, top): (i32, i32),
    cell: i32,
    names: &[String],
    counts: &[Vec<u64>],
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(drawing, units(size)).into_drawing_area();
    let n = names.len() as i32;
    let at = |column: i32, row: i32| ((left + column * cell) * SCALE, (top + row * cell) * SCALE);
    for i in 0..=n {
        root.draw(&PathElement::new([at(0, i), at(n, i)], Role::Grid.stroke(0.75)))?;
        root.draw(&PathElement::new([at(i, 0), at(i, n)], Role::Grid.stroke(0.75)))?;
    }
    let name_px = TEXT_PX.min(f64::from(cell) * 0.82);
    for (i, name) in names.iter().enumerate() {
        let i = i as i32;
        let (x, y) = at(0, i);
        let style = text(Role::Ink, name_px, HPos::Right, VPos::Center);
        root.draw(&Text::new(name.clone(), (x - 6 * SCALE, y + cell * SCALE / 2), style))?;
        let (x, y) = at(i, 0);
        let style = text(Role::Ink, name_px, HPos::Left, VPos::Center).transform(FontTransform::Rotate270);
        root.draw(&Text::new(name.clone(), (x + cell * SCALE / 2, y - 6 * SCALE), style))?;
    }
    let middle = n * cell * SCALE / 2;
    let style = text(Role::Quiet, TEXT_PX, HPos::Center, VPos::Top);
    root.draw(&Text::new("predicted class", (at(0, 0).0 + middle, 2 * SCALE), style.clone()))?;
    let style = style.transform(FontTransform::Rotate270);
    root.draw(&Text::new("true class", (2 * SCALE, at(0, 0).1 + middle), style))?;

    for (i, row) in counts.iter().enumerate().take(names.len()) {
        let of_row: u64 = row.iter().sum();
        for (j, count) in row.iter().enumerate().take(names.len()).filter(|(_, count)| **count > 0) {
            let share = *count as f64 / of_row.max(1) as f64;
            let ((x0, y0), (x1, y1)) = (at(j as i32, i as i32), at(j as i32 + 1, i as i32 + 1));
            // The minimum opacity keeps a single mistake among hundreds visible.
            let area = Rectangle::new([(x0 + 2, y0 + 2), (x1 - 2, y1 - 2)], Role::Heat.fill(0.1 + 0.9 * share));
            root.draw(&area)?;
            let label = compact(*count);
            let px = (f64::from(cell) * 0.42).min(f64::from(cell) * 1.5 / label.chars().count() as f64).min(TEXT_PX);
            if px >= 5.0 {
                let role = if share > 0.5 { Role::OnHeat } else { Role::Ink };
                let style = text(role, px, HPos::Center, VPos::Center);
                root.draw(&Text::new(label, (i32::midpoint(x0, x1), i32::midpoint(y0, y1)), style))?;
            }
        }
    }
    root.present()?;
    Ok(())
}

/// Formats a count in at most four characters.
fn compact(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{}k", n / 1000),
        _ => format!("{}M", n / 1_000_000),
    }
}
