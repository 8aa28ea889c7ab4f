//! Counts of a dataset per class, as a table and as a chart.

use std::collections::{BTreeMap, BTreeSet};

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::split::Side;
use super::{Dataset, Kind};
use touchline_core::error::{Error, Result};

/// Counts of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassCount {
    /// Class name.
    pub class: String,
    /// Number of clips. A part of a recording counts as a clip.
    pub clips: usize,
    /// Seconds of clips.
    pub clip_seconds: u64,
    /// Number of sounds without pictures.
    pub sounds: usize,
    /// Seconds of these sounds.
    pub sound_seconds: u64,
    /// Number of photographs.
    pub pictures: usize,
    /// Number of stills of television and other footage.
    pub frames: usize,
    /// Number of sources. Sources that show the same count as one; a picture without a stated source counts as one.
    pub sources: usize,
    /// Items on each side, in the order of [`Side::ALL`]; [`None`] when the dataset is not split.
    pub sides: Option<[usize; 3]>,
}

/// Returns the counts of each class, in alphabetical order.
pub fn count(dataset: &Dataset) -> Vec<ClassCount> {
    let sides = dataset.sides().ok();
    let mut classes: BTreeMap<&str, (ClassCount, BTreeSet<&str>)> = BTreeMap::new();
    for (i, item) in dataset.items.iter().enumerate() {
        let (count, groups) = classes.entry(&item.class).or_default();
        match item.kind {
            Kind::Picture => count.pictures += 1,
            Kind::Frame => count.frames += 1,
            Kind::Clip => {
                count.clips += 1;
                count.clip_seconds += u64::from(item.seconds);
            }
            Kind::Sound => {
                count.sounds += 1;
                count.sound_seconds += u64::from(item.seconds);
            }
        }
        if let Some(sides) = sides {
            count.sides.get_or_insert_default()[sides[i] as usize] += 1;
        }
        groups.insert(&item.group);
    }
    classes
        .into_iter()
        .map(|(class, (count, groups))| ClassCount { class: class.to_owned(), sources: groups.len(), ..count })
        .collect()
}

/// Returns the number of sources of the dataset. It may be less than the sum over the classes, because a source may have several.
pub fn sources(dataset: &Dataset) -> usize {
    dataset.items.iter().map(|i| i.group.as_str()).collect::<BTreeSet<_>>().len()
}

/// Returns an aligned text table with a line for each class and a line for all of them, which have `sources` sources together.
pub fn table(counts: &[ClassCount], sources: usize) -> String {
    let head = [
        "class",
        "clips",
        "seconds",
        "sounds",
        "seconds",
        "pictures",
        "frames",
        "sources",
        "train",
        "validation",
        "test",
    ];
    let line = |c: &ClassCount| {
        let mut cells = vec![c.class.clone()];
        let numbers =
            [c.clips as u64, c.clip_seconds, c.sounds as u64, c.sound_seconds, c.pictures as u64, c.frames as u64];
        cells.extend(numbers.map(|n| if n == 0 { "-".to_owned() } else { n.to_string() }));
        cells.push(c.sources.to_string());
        cells.extend(Side::ALL.map(|side| c.sides.map_or("-".to_owned(), |s| s[side as usize].to_string())));
        cells
    };
    let mut all = ClassCount { class: "all".to_owned(), sources, ..ClassCount::default() };
    for c in counts {
        all.clips += c.clips;
        all.clip_seconds += c.clip_seconds;
        all.sounds += c.sounds;
        all.sound_seconds += c.sound_seconds;
        all.pictures += c.pictures;
        all.frames += c.frames;
        if let Some(sides) = c.sides {
            let sum = all.sides.get_or_insert_default();
            sum.iter_mut().zip(sides).for_each(|(sum, n)| *sum += n);
        }
    }
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(counts.iter().chain([&all]).map(line));
    let widths: Vec<usize> =
        (0..head.len()).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for cells in &lines {
        for (i, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            // Names are aligned left, numbers right.
            text += &if i == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

/// A series of bars in the chart: name, colour, and length of the bar of a class.
type Series = (&'static str, RGBColor, fn(&ClassCount) -> u64);

/// The bars of a class. The colours can be distinguished by readers who confuse red and green (palette of Okabe and Ito).
const SERIES: [Series; 4] = [
    ("clips, seconds", RGBColor(0, 114, 178), |c| c.clip_seconds),
    ("sounds, seconds", RGBColor(230, 159, 0), |c| c.sound_seconds),
    ("pictures", RGBColor(0, 158, 115), |c| c.pictures as u64),
    ("frames", RGBColor(204, 121, 167), |c| c.frames as u64),
];

/// Returns the label distribution as an SVG: for every class the seconds of clips and of sounds, and the numbers of pictures and
/// frames.
///
/// # Errors
/// [`Error::Internal`] when the chart library fails.
pub fn chart(counts: &[ClassCount]) -> Result<String> {
    let mut svg = String::new();
    draw(counts, &mut svg).map_err(|e| Error::Internal(format!("the chart cannot be drawn: {e}")))?;
    Ok(svg)
}

fn draw(counts: &[ClassCount], svg: &mut String) -> std::result::Result<(), Box<dyn std::error::Error>> {
    const WIDTH: u32 = 960;
    const CLASS_HEIGHT: u32 = 36;
    // Share of a class's height that its bars take.
    const BARS: f64 = 0.78;
    let greatest = counts.iter().flat_map(|c| SERIES.map(|(_, _, value)| value(c))).max().unwrap_or(0).max(1);
    let longest = counts.iter().map(|c| c.class.chars().count()).max().unwrap_or(0) as u32;
    let height = 130 + CLASS_HEIGHT * counts.len() as u32;
    let font = |size: i32| ("sans-serif", size).into_font().color(&RGBColor(40, 40, 40));
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Label distribution", font(20))
        .margin(12)
        .margin_right(64)
        .margin_top(8)
        .x_label_area_size(44)
        .y_label_area_size(24 + 8 * longest)
        .build_cartesian_2d(0.0..greatest as f64 * 1.02, counts.len() as f64..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(8)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .x_desc("seconds of clips and sounds, number of pictures and frames")
        .label_style(font(13))
        .axis_style(RGBColor(120, 120, 120))
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    for (n, (name, colour, value)) in SERIES.into_iter().enumerate() {
        let step = BARS / SERIES.len() as f64;
        let bars = counts.iter().enumerate().map(|(row, c)| {
            let top = row as f64 + (1.0 - BARS) / 2.0 + n as f64 * step;
            Rectangle::new([(0.0, top), (value(c) as f64, top + step)], colour.filled())
        });
        chart
            .draw_series(bars)?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
        for (row, c) in counts.iter().enumerate().filter(|(_, c)| value(c) > 0) {
            let middle = row as f64 + (1.0 - BARS) / 2.0 + (n as f64 + 0.5) * step;
            let (x, y) = chart.backend_coord(&(value(c) as f64, middle));
            let style = font(10).pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(value(c).to_string(), (x + 4, y), style))?;
        }
    }
    for (row, c) in counts.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(0.0, row as f64 + 0.5));
        let style = font(14).pos(Pos::new(HPos::Right, VPos::Center));
        root.draw(&Text::new(c.class.clone(), (x - 8, y), style))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(RGBColor(200, 200, 200))
        .label_font(font(13))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> Vec<ClassCount> {
        vec![
            ClassCount {
                class: "golf".into(),
                clips: 2,
                clip_seconds: 1200,
                sources: 3,
                sides: Some([2, 1, 0]),
                pictures: 1,
                frames: 6,
                ..ClassCount::default()
            },
            ClassCount {
                class: "tabletennis".into(),
                sounds: 7,
                sound_seconds: 70,
                sources: 1,
                sides: Some([7, 0, 0]),
                ..ClassCount::default()
            },
        ]
    }

    #[test]
    fn the_table_is_aligned_and_sums() {
        let text = table(&counts(), 4);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|l| l.len() == lines[0].len()), "{text}");
        let words = |i: usize| lines[i].split_whitespace().collect::<Vec<_>>();
        assert_eq!(words(1), ["golf", "2", "1200", "-", "-", "1", "6", "3", "2", "1", "0"]);
        assert_eq!(words(3), ["all", "2", "1200", "7", "70", "1", "6", "4", "9", "1", "0"]);
    }

    #[test]
    fn the_chart_has_a_bar_and_a_number_for_each_count() {
        let svg = chart(&counts()).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["golf", "tabletennis", "1200", "70", "clips, seconds", "pictures", "frames"] {
            assert!(svg.contains(text), "{text} is missing: {svg}");
        }
        // The lengths of the bars are in proportion.
        let widths: Vec<f64> = svg
            .split("<rect ")
            .filter(|r| r.contains("#0072B2") || r.contains("#E69F00"))
            .filter_map(|r| r.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        let longest = widths.iter().copied().fold(0.0, f64::max);
        assert!(widths.iter().any(|w| (w / longest - 70.0 / 1200.0).abs() < 0.01), "{widths:?}");
        assert!(chart(&[]).is_ok());
    }
}
