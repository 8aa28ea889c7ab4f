//! Charts with one row per name: bars side by side, and figures with their intervals.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::chart::{Axis, broken, units};
use super::html::three;
use super::ink::{Role, SCALE, TEXT_PX, page_svg, shortened, text, text_width, tick};
use touchline_core::error::Result;

const WIDTH: i32 = 440;

/// Longer names are shortened; the tables have the full names.
const NAME_CHARACTERS: usize = 26;

/// One bar of each row.
pub(super) struct Series {
    pub role: Role,
    /// One value per row; `None` is drawn as a dash.
    pub values: Vec<Option<f64>>,
    /// Error of each value in either direction; empty for none.
    pub errors: Vec<f64>,
}

/// A bar chart.
pub(super) struct Bars<'a> {
    pub title: &'a str,
    pub description: String,
    pub names: Vec<String>,
    pub series: Vec<Series>,
    /// Axis of the values; it always includes 0.
    pub x: Axis,
    /// Returns the text at the end of a bar from its value.
    pub label: fn(f64) -> String,
}

impl Bars<'_> {
    /// Draws the chart as SVG.
    ///
    /// # Errors
    /// When the library cannot draw it, which is a defect of this module.
    pub(super) fn svg(&self) -> Result<String> {
        // With numbers at their ends, bars need at least the height of the text.
        let per_bar = if self.series.len() > 2 { 8 } else { 12 };
        let row = self.series.len() as i32 * per_bar + 9;
        let size = (WIDTH, row * self.names.len() as i32 + 56);
        let mut drawing = String::new();
        self.draw(&mut drawing, size).map_err(|e| broken(self.title, &e))?;
        Ok(page_svg(&drawing, size, self.title, &self.description))
    }

    fn draw(&self, drawing: &mut String, size: (i32, i32)) -> Result<(), Box<dyn std::error::Error>> {
        let rows = self.names.len() as f64;
        let root = SVGBackend::with_string(drawing, units(size)).into_drawing_area();
        let mut chart = frame(&root, &self.names, &self.x)?;
        let across = 1.0 / (self.series.len() as f64 + 0.9);
        // The numbers of many small bars would overlap; the tables have them.
        let numbers = self.series.len() <= 2;
        for (s, series) in self.series.iter().enumerate() {
            for (i, value) in series.values.iter().enumerate() {
                let top = rows - i as f64 - (s as f64 + 0.45) * across;
                let middle = top - across / 2.0;
                let value = value.filter(|v| v.is_finite());
                let Some(value) = value else {
                    let (x, y) = chart.plotting_area().map_coordinate(&(0.0, middle));
                    let style = text(Role::Quiet, TEXT_PX - 2.0, HPos::Left, VPos::Center);
                    root.draw(&Text::new("–", (x + 3 * SCALE, y), style))?;
                    continue;
                };
                let end = value.clamp(self.x.from, self.x.to);
                let bar =
                    Rectangle::new([(end.min(0.0), top), (end.max(0.0), top - across * 0.88)], series.role.fill(1.0));
                chart.draw_series([bar])?;
                let error = series.errors.get(i).copied().filter(|e| e.is_finite() && *e > 0.0).unwrap_or(0.0);
                let (low, high) = ((end - error).max(self.x.from), (end + error).min(self.x.to));
                if error > 0.0 {
                    chart.draw_series([PathElement::new([(low, middle), (high, middle)], Role::Ink.stroke(1.4))])?;
                }
                if numbers {
                    let (x, y) = chart.plotting_area().map_coordinate(&(high.max(0.0), middle));
                    let style = text(Role::Quiet, TEXT_PX - 2.0, HPos::Left, VPos::Center);
                    root.draw(&Text::new((self.label)(value), (x + 4 * SCALE, y), style))?;
                }
            }
        }
        root.present()?;
        Ok(())
    }
}

/// A named figure with its interval.
pub(super) struct Measured {
    pub name: String,
    pub role: Role,
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Draws figures with their intervals as SVG, one per row.
///
/// # Errors
/// When the library cannot draw the chart, which is a defect of this module.
pub(super) fn intervals(title: &str, description: String, x: &Axis, rows: &[Measured]) -> Result<String> {
    let size = (WIDTH, 24 * rows.len() as i32 + 56);
    let mut drawing = String::new();
    draw_intervals(&mut drawing, size, x, rows).map_err(|e| broken(title, &e))?;
    Ok(page_svg(&drawing, size, title, &description))
}

fn draw_intervals(
    drawing: &mut String,
    size: (i32, i32),
    x: &Axis,
    rows: &[Measured],
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(drawing, units(size)).into_drawing_area();
    let names: Vec<String> = rows.iter().map(|r| r.name.clone()).collect();
    let mut chart = frame(&root, &names, x)?;
    for (i, row) in rows.iter().enumerate() {
        let y = rows.len() as f64 - i as f64 - 0.5;
        if !row.value.is_finite() {
            continue;
        }
        let put = |v: f64| if v.is_finite() { v.clamp(x.from, x.to) } else { row.value.clamp(x.from, x.to) };
        let (low, value, high) = (put(row.low), put(row.value), put(row.high));
        chart.draw_series([PathElement::new([(low, y), (high, y)], row.role.stroke(2.4))])?;
        chart.draw_series([Circle::new((value, y), 4 * SCALE, row.role.fill(1.0))])?;
        let (px, py) = chart.plotting_area().map_coordinate(&(high.max(value), y));
        let style = text(Role::Quiet, TEXT_PX - 1.0, HPos::Left, VPos::Center);
        root.draw(&Text::new(three(row.value), (px + 9 * SCALE, py), style))?;
    }
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Rows<'a, 'b> = ChartContext<
    'b,
    SVGBackend<'a>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// Draws the axes, with a name to the left of each row. Row 0 is at the top, between n − 1 and n.
fn frame<'a, 'b>(root: &Area<'a>, names: &[String], x: &Axis) -> Result<Rows<'a, 'b>, String> {
    let names: Vec<String> = names.iter().map(|n| shortened(n, NAME_CHARACTERS)).collect();
    let wide = names.iter().map(|n| text_width(n)).max().unwrap_or(0) + 14;
    let rows = names.len().max(1) as f64;
    let mut chart = ChartBuilder::on(root)
        .margin_top(6 * SCALE)
        .margin_right(46 * SCALE)
        .x_label_area_size(46 * SCALE)
        .y_label_area_size(wide * SCALE)
        .build_cartesian_2d(x.from.min(0.0)..x.to, 0.0..rows)
        .map_err(|e| e.to_string())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(Role::Grid.stroke(1.0))
        .axis_style(Role::Grid.stroke(1.0))
        .set_all_tick_mark_size(4 * SCALE)
        .x_labels(6)
        .x_label_formatter(&|v| tick(*v))
        .label_style(text(Role::Quiet, TEXT_PX, HPos::Left, VPos::Top))
        .axis_desc_style(text(Role::Quiet, TEXT_PX, HPos::Left, VPos::Top))
        .x_desc(&x.name)
        .draw()
        .map_err(|e| e.to_string())?;
    let zero = PathElement::new([(0.0, 0.0), (0.0, rows)], Role::Quiet.stroke(1.0));
    chart.draw_series([zero]).map_err(|e| e.to_string())?;
    for (i, name) in names.iter().enumerate() {
        let (x, y) = chart.plotting_area().map_coordinate(&(x.from.min(0.0), rows - i as f64 - 0.5));
        let style = text(Role::Ink, TEXT_PX, HPos::Right, VPos::Center);
        root.draw(&Text::new(name.clone(), (x - 7 * SCALE, y), style)).map_err(|e| e.to_string())?;
    }
    Ok(chart)
}
