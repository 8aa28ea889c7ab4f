//! The section on resources: their use by a training, over time.

use super::chart::{Axis, Chart, Layer};
use super::html::{Figure, Sign, grid, missing};
use super::ink::Role;
use super::log::{RunHistory, condensed};
use crate::record::ResourceSample;
use touchline_core::error::Result;

/// Maximum number of points of a curve.
const CURVE_POINTS: usize = 240;
const GIBIBYTE: f64 = (1_u64 << 30) as f64;
const MEGABYTE: f64 = 1e6;

/// Returns a figure of a sample.
type Get = fn(&ResourceSample) -> Option<f64>;

/// A chart of one or two figures over time.
struct Profile {
    title: &'static str,
    unit: &'static str,
    curves: &'static [(Role, &'static str, Get)],
    /// Text in place of the chart if the log has no such figure.
    none: &'static str,
}

const PROFILES: [Profile; 6] = [
    Profile {
        title: "Processor",
        unit: "cores in use",
        curves: &[(Role::Blue, "cores", |s| Some(s.cpu_cores))],
        none: "No figure.",
    },
    Profile {
        title: "Memory",
        unit: "resident memory (GiB)",
        curves: &[(Role::Blue, "memory", |s| Some(s.memory_bytes as f64 / GIBIBYTE))],
        none: "No figure.",
    },
    Profile {
        title: "Images a second",
        unit: "images a second",
        curves: &[(Role::Blue, "images", |s| Some(s.images_per_second))],
        none: "No figure.",
    },
    Profile {
        title: "Disk",
        unit: "MB a second",
        curves: &[
            (Role::Blue, "read", |s| Some(s.read_bytes_per_second / MEGABYTE)),
            (Role::DashedOrange, "written", |s| Some(s.written_bytes_per_second / MEGABYTE)),
        ],
        none: "No figure.",
    },
    Profile {
        title: "GPU",
        unit: "share in use",
        curves: &[(Role::Blue, "GPU", |s| s.gpu_utilisation)],
        none: "No GPU was found; the training ran on the CPU.",
    },
    Profile {
        title: "GPU memory",
        unit: "GPU memory in use (GiB)",
        curves: &[(Role::Blue, "GPU memory", |s| Some(s.gpu_memory_bytes? as f64 / GIBIBYTE))],
        none: "No GPU was found.",
    },
];

pub(super) fn charts(history: &RunHistory) -> Result<String> {
    if history.resources.is_empty() {
        return Ok(missing("Resource profile", "The log has no resource samples."));
    }
    let last = history.resources.last().map_or(0.0, |s| s.at_s);
    let (unit, seconds) = match last {
        ..180.0 => ("time (s)", 1.0),
        180.0..10_800.0 => ("time (min)", 60.0),
        _ => ("time (h)", 3600.0),
    };
    let gpu = history.resources.iter().any(|s| s.gpu_utilisation.is_some() || s.gpu_memory_bytes.is_some());
    let mut parts = Vec::new();
    // Without a GPU, one sentence is enough for both charts.
    for profile in PROFILES.iter().filter(|p| gpu || p.title != "GPU memory") {
        parts.push(chart(profile, &history.resources, unit, seconds)?);
    }
    Ok(grid(&parts))
}

fn chart(profile: &Profile, samples: &[ResourceSample], unit: &str, seconds: f64) -> Result<String> {
    let mut layers = Vec::new();
    let mut legend = Vec::new();
    let (mut most, mut sum, mut n) = (0.0_f64, 0.0, 0_u32);
    for (role, name, of) in profile.curves {
        let points: Vec<(f64, f64)> = samples.iter().filter_map(|s| Some((s.at_s / seconds, of(s)?))).collect();
        let few: Vec<(f64, f64)> = condensed(&points, CURVE_POINTS).iter().map(|p| (p.0, p.1)).collect();
        if few.is_empty() {
            continue;
        }
        most = few.iter().map(|p| p.1).fold(most, f64::max);
        sum += few.iter().map(|p| p.1).sum::<f64>();
        n += few.len() as u32;
        legend.push((*role, Sign::Line, (*name).to_owned()));
        layers.push(Layer::Line(*role, few));
    }
    if layers.is_empty() {
        return Ok(missing(profile.title, profile.none));
    }
    let y = if profile.unit.starts_with("share") {
        Axis::share(profile.unit)
    } else {
        Axis::up_to(profile.unit, [most].into_iter())
    };
    let x = Axis::new(unit, 0.0, samples.last().map_or(1.0, |s| s.at_s / seconds));
    let note = if legend.len() == 1 {
        format!("{:.2} on average, {most:.2} at most", sum / f64::from(n))
    } else {
        String::new()
    };
    if legend.len() == 1 {
        legend.clear();
    }
    let description = format!("{} over {} samples.", profile.unit, samples.len());
    let svg = Chart { title: profile.title, description, x, y, layers, square: false }.svg()?;
    Ok(Figure { title: profile.title, note: &note, legend, svg }.card())
}
