//! Charts with two axes: curves, bands, points.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::ink::{Role, SCALE, TEXT_PX, page_svg, text, tick};
use touchline_core::error::{Error, Result};

/// Standard size of a chart in pixels.
const SIZE: (i32, i32) = (460, 280);

/// Space above the plot for the words of the marks, in pixels.
const TOP: i32 = 20;

/// An axis: its name with the unit, and the visible range.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub name: String,
    pub from: f64,
    pub to: f64,
}

impl Axis {
    /// An axis from `from` to `to`. Invalid borders are replaced so that the range is finite and not empty.
    pub(super) fn new(name: &str, from: f64, to: f64) -> Self {
        let from = if from.is_finite() { from.clamp(-1e15, 1e15) } else { 0.0 };
        let to = if to.is_finite() { to.clamp(-1e15, 1e15) } else { from };
        let least = (from.abs() * 1e-6).max(1e-9);
        Self { name: name.into(), from, to: if to - from < least { from + least.max(1.0) } else { to } }
    }

    /// An axis from 0 to slightly above the largest value.
    pub(super) fn up_to(name: &str, values: impl Iterator<Item = f64>) -> Self {
        let top = values.filter(|v| v.is_finite()).fold(0.0, f64::max);
        Self::new(name, 0.0, top * 1.06)
    }

    /// An axis from 0 to 1.
    pub(super) fn share(name: &str) -> Self {
        Self::new(name, 0.0, 1.0)
    }

    fn clamp(&self, value: f64) -> f64 {
        value.clamp(self.from, self.to)
    }
}

/// A layer of a chart. Values outside the axes are drawn on the border; values that are not finite are left out.
#[derive(Clone, Debug)]
pub(super) enum Layer {
    /// A line through points.
    Line(Role, Vec<(f64, f64)>),
    /// A thin line.
    Hair(Role, Vec<(f64, f64)>),
    /// An area between (x, low, high).
    Band(Role, Vec<(f64, f64, f64)>),
    /// Points of equal size.
    Points(Role, Vec<(f64, f64)>),
    /// Points of different sizes: (x, y, radius in pixels).
    Bubbles(Role, Vec<(f64, f64, f64)>),
    /// A vertical line at x with a word above it.
    Mark(Role, f64, String),
}

/// A chart with two axes.
pub(super) struct Chart<'a> {
    pub title: &'a str,
    /// Description for screen readers.
    pub description: String,
    pub x: Axis,
    pub y: Axis,
    /// Layers in the order of drawing.
    pub layers: Vec<Layer>,
    /// Whether the chart is about as wide as high.
    pub square: bool,
}

impl Chart<'_> {
    /// Draws the chart as SVG.
    ///
    /// # Errors
    /// When the library cannot draw it, which is a defect of this module.
    pub(super) fn svg(&self) -> Result<String> {
        let size = if self.square { (400, 370) } else { SIZE };
        let mut drawing = String::new();
        self.draw(&mut drawing, size).map_err(|e| broken(self.title, &e))?;
        Ok(page_svg(&drawing, size, self.title, &self.description))
    }

    fn draw(&self, drawing: &mut String, size: (i32, i32)) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(drawing, units(size)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin_top(TOP * SCALE)
            .margin_right(14 * SCALE)
            .x_label_area_size(46 * SCALE)
            .y_label_area_size(66 * SCALE)
            .build_cartesian_2d(self.x.from..self.x.to, self.y.from..self.y.to)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(Role::Grid.stroke(1.0))
            .axis_style(Role::Grid.stroke(1.0))
            .set_all_tick_mark_size(4 * SCALE)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|v| tick(*v))
            .y_label_formatter(&|v| tick(*v))
            .label_style(text(Role::Quiet, TEXT_PX, HPos::Left, VPos::Top))
            .axis_desc_style(text(Role::Quiet, TEXT_PX, HPos::Left, VPos::Top))
            .x_desc(&self.x.name)
            .y_desc(&self.y.name)
            .draw()?;
        let place = |(x, y): (f64, f64)| (self.x.clamp(x), self.y.clamp(y));
        for layer in &self.layers {
            match layer {
                Layer::Line(role, points) | Layer::Hair(role, points) => {
                    let px = if matches!(layer, Layer::Hair(..)) { 1.2 } else { 2.0 };
                    let points: Vec<_> = finite(points).map(place).collect();
                    if points.len() == 1 {
                        chart.draw_series([Circle::new(points[0], 3 * SCALE, role.fill(1.0))])?;
                    } else {
                        chart.draw_series(LineSeries::new(points, role.stroke(px)))?;
                    }
                }
                Layer::Band(role, points) => {
                    let known = points.iter().filter(|p| p.1.is_finite() && p.2.is_finite());
                    let lower = known.clone().map(|p| place((p.0, p.1)));
                    let upper = known.map(|p| place((p.0, p.2))).rev();
                    chart.draw_series([Polygon::new(lower.chain(upper).collect::<Vec<_>>(), role.fill(0.2))])?;
                }
                Layer::Points(role, points) => {
                    let dot = |p| Circle::new(place(p), (2.6 * f64::from(SCALE)) as i32, role.fill(1.0));
                    chart.draw_series(finite(points).map(dot))?;
                }
                Layer::Bubbles(role, points) => {
                    let known = points.iter().filter(|p| p.1.is_finite());
                    let dot = |p: &(f64, f64, f64)| {
                        Circle::new(place((p.0, p.1)), (p.2 * f64::from(SCALE)) as i32, role.fill(0.75))
                    };
                    chart.draw_series(known.map(dot))?;
                }
                Layer::Mark(role, x, word) => {
                    let x = self.x.clamp(*x);
                    chart.draw_series([PathElement::new([(x, self.y.from), (x, self.y.to)], role.stroke(1.2))])?;
                    let (px, py) = chart.plotting_area().map_coordinate(&(x, self.y.to));
                    // Near the right border, the word is to the left of its line.
                    let right = px > (size.0 - 90) * SCALE;
                    let side = if right { HPos::Right } else { HPos::Center };
                    let style = text(*role, TEXT_PX - 1.0, side, VPos::Bottom);
                    root.draw(&Text::new(word.clone(), (px, py - 3 * SCALE), style))?;
                }
            }
        }
        root.present()?;
        Ok(())
    }
}

/// Iterates over the points that are finite.
fn finite(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite())
}

/// Converts a size in pixels to units of plotters.
pub(super) fn units(size: (i32, i32)) -> (u32, u32) {
    let units = |px: i32| u32::try_from(px * SCALE).unwrap_or(1);
    (units(size.0), units(size.1))
}

/// Returns the error for a chart that plotters could not draw.
pub(super) fn broken(title: &str, e: &dyn std::fmt::Display) -> Error {
    Error::Internal(format!("cannot draw the chart {title:?}: {e}"))
}
