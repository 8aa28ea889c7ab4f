//! Colour bars, as SMPTE, EBU and ARIB define them.
//!
//! All of them have the same six bars side by side: yellow, cyan, green, magenta, red, blue, from left to right, by falling
//! luminance. No picture of sport has them in this order, of equal width and over a third of its height, so the colours may be
//! as wrong as the transport makes them: 75 % or 100 %, the other colour matrix, the other range, compressed, scaled, in a black
//! frame. The parts that differ between the standards are ignored: white, grey and black beside the bars, and the rows with I, Q, ramp
//! and PLUGE below. The bars may be moved around the edge of the picture, as test generators do.
//!
//! Rows of a coarse grid find the bars. Then each bar is measured over all rows, so that a text, a clock, a logo or a moving
//! element may hide a part.
//!
//! Not found: grey steps, ramps, zone plates, single colours, bars inside a larger picture, and the patterns of software
//! generators with no such bars (`testsrc`, `testsrc2`, `rgbtestsrc` of FFmpeg).

use touchline_core::frame::RgbView;

/// Cells of the grid, horizontally: 12 in the narrowest bar of an uncropped picture.
const COLUMNS: usize = 160;
/// Cells of the grid, vertically.
const ROWS: usize = 60;

/// The bars by their channels: 4 is red, 2 is green, 1 is blue.
const ORDER: [u8; 6] = [6, 3, 2, 5, 4, 1];

/// A cell that is darker than this in every channel is black. 75 % bars have 191, and 64 in the dimmest transport.
const DARK: f32 = 64.0;
/// A channel is on from this share of the brightest channel.
const ON: f32 = 0.68;
/// A channel is off up to this share of the brightest channel.
const OFF: f32 = 0.42;

/// Smallest share of the picture's width and height that bars in a black frame fill.
const CONTENT_MIN: f32 = 0.4;
/// Smallest share of the width, without the black frame, of the six bars. In HD bars with grey sides they have 0.64.
const SPAN_MIN: f32 = 0.5;
/// Smallest share of the rows that show all six bars.
const WHOLE_ROWS_MIN: f32 = 0.15;
/// Smallest share of the rows that show one bar. Bars of the standards have 0.5 to 1.
const BAR_ROWS_MIN: f32 = 0.25;
/// Smallest mean of this share over the bars.
const MEAN_ROWS_MIN: f32 = 0.4;

/// Widest part of a row, in cells, that something may hide between two bars or inside one: half of the narrowest bar.
const HIDDEN_MAX: usize = 8;

/// Runs of one row that are examined: bars, the castellation below them, and a disturbance.
const RUNS_MAX: usize = 32;

/// Finds colour bars. Owns the grid, and allocates nothing after it is made.
#[derive(Debug)]
pub struct BarsDetector {
    /// Codes of the cells, row by row: bits for the channels that are on, 0 for black and for colours of no bar.
    codes: Vec<u8>,
    /// Whether a cell is black.
    dark: Vec<bool>,
    /// The bars of each row that shows all six.
    found: Vec<Span>,
}

/// Six bars in a row, in cells from the left edge of the content. May exceed the right edge; it then continues at the left.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: f32,
    /// Width of a bar.
    bar: f32,
}

/// Adjacent cells of one code.
#[derive(Clone, Copy, Debug, Default)]
struct CellRun {
    code: u8,
    start: usize,
    end: usize,
}

/// The cells without black margins.
#[derive(Clone, Copy, Debug)]
struct ContentArea {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
}

impl Default for BarsDetector {
    fn default() -> Self {
        Self { codes: vec![0; COLUMNS * ROWS], dark: vec![false; COLUMNS * ROWS], found: Vec::with_capacity(ROWS) }
    }
}

impl BarsDetector {
    /// Whether the picture is colour bars.
    pub fn is_bars(&mut self, view: RgbView<'_>) -> bool {
        if view.width < 32 || view.height < 16 {
            return false;
        }
        self.fill(view);
        let Some(content) = self.content() else { return false };
        self.found.clear();
        for row in content.top..content.bottom {
            let cells = &self.codes[row * COLUMNS + content.left..row * COLUMNS + content.right];
            self.found.extend(six_bars(cells));
        }
        let rows = (content.bottom - content.top) as f32;
        let Some((span, agreeing)) = self.most_common() else { return false };
        if (agreeing as f32) < WHOLE_ROWS_MIN * rows {
            return false;
        }
        let shares: [f32; 6] = std::array::from_fn(|bar| self.rows_with(bar, span, content) as f32 / rows);
        let mean = shares.iter().sum::<f32>() / 6.0;
        shares.iter().all(|share| *share >= BAR_ROWS_MIN) && mean >= MEAN_ROWS_MIN
    }

    /// Fills the grid: each cell is the mean of eight pixels.
    fn fill(&mut self, view: RgbView<'_>) {
        for row in 0..ROWS {
            let ys = [1, 3].map(|q| (4 * row + q) * view.height / (4 * ROWS));
            for column in 0..COLUMNS {
                let mut sum = [0u32; 3];
                for y in ys {
                    for q in [1, 3, 5, 7] {
                        let x = (8 * column + q) * view.width / (8 * COLUMNS);
                        let at = (y * view.width + x) * 3;
                        if let Some(pixel) = view.data.get(at..at + 3) {
                            sum.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += u32::from(*value));
                        }
                    }
                }
                let rgb = sum.map(|sum| sum as f32 / 8.0);
                let at = row * COLUMNS + column;
                self.dark[at] = rgb.iter().all(|value| *value < DARK);
                self.codes[at] = code(rgb);
            }
        }
    }

    /// The part of the picture inside black margins; `None` when it is too small.
    fn content(&self) -> Option<ContentArea> {
        let is_row =
            |row: &usize| self.dark[row * COLUMNS..(row + 1) * COLUMNS].iter().filter(|d| !**d).count() > COLUMNS / 10;
        let (top, last) = ((0..ROWS).find(is_row)?, (0..ROWS).rev().find(is_row)?);
        let is_column =
            |column: &usize| (top..=last).filter(|row| !self.dark[row * COLUMNS + column]).count() > (last - top) / 5;
        let (left, right) = ((0..COLUMNS).find(is_column)?, (0..COLUMNS).rev().find(is_column)? + 1);
        let content = ContentArea { left, right, top, bottom: last + 1 };
        let is_large = |cells: usize, of: usize| cells as f32 >= CONTENT_MIN * of as f32;
        (is_large(right - left, COLUMNS) && is_large(content.bottom - top, ROWS)).then_some(content)
    }

    /// The bars that most rows agree on, and the number of these rows.
    fn most_common(&self) -> Option<(Span, usize)> {
        let agreeing = |span: &Span| {
            let is_same = |other: &&Span| (span.start - other.start).abs() < 2.0 && (span.bar - other.bar).abs() < 0.6;
            self.found.iter().filter(is_same).count()
        };
        self.found.iter().map(|span| (*span, agreeing(span))).max_by_key(|(_, rows)| *rows)
    }

    /// Rows in which most of the inner cells of `bar` have its colour.
    fn rows_with(&self, bar: usize, span: Span, content: ContentArea) -> usize {
        let width = content.right - content.left;
        let edge = |share: f32| (span.start + span.bar * (bar as f32 + share)).round() as usize;
        let (from, to) = (edge(0.2), edge(0.8).max(edge(0.2) + 1));
        let has_colour = |row: &usize| {
            let line = &self.codes[row * COLUMNS + content.left..row * COLUMNS + content.right];
            let right = (from..to).filter(|cell| line[cell % width] == ORDER[bar]).count();
            right * 5 >= (to - from) * 3
        };
        (content.top..content.bottom).filter(has_colour).count()
    }
}

/// The channels that are on; 0 for black and where a channel is in between.
fn code(rgb: [f32; 3]) -> u8 {
    let most = rgb.iter().copied().fold(0.0, f32::max);
    if most < DARK {
        return 0;
    }
    let mut code = 0;
    for value in rgb {
        code <<= 1;
        if value >= ON * most {
            code |= 1;
        } else if value > OFF * most {
            return 0;
        }
    }
    code
}

/// The six bars of a row, which may continue from its right edge to its left.
fn six_bars(cells: &[u8]) -> Option<Span> {
    let mut runs = [CellRun::default(); RUNS_MAX];
    let count = runs_of(cells, &mut runs)?;
    let width = cells.len();
    for first in 0..count {
        // Only here the row is worth more: most pictures have no yellow beside cyan.
        if runs[first].code != ORDER[0] {
            continue;
        }
        let mut bars = [CellRun::default(); 6];
        let mut taken = 0;
        let mut shift = 0;
        let mut at = first;
        // Once around the row at most.
        while taken < 6 && shift <= width {
            let mut run = CellRun { start: runs[at].start + shift, end: runs[at].end + shift, ..runs[at] };
            if run.code != ORDER[taken] {
                // Something narrow over the bars, or two colours that mix at a blurred edge. It hides the rest of this bar, the
                // beginning of the next, or a part in the middle of this one.
                let next = at + 1;
                if taken == 0 || run.end - run.start > HIDDEN_MAX || next >= count {
                    break;
                }
                if runs[next].code == ORDER[taken - 1] {
                    bars[taken - 1].end = runs[next].end + shift;
                    at = next + 1;
                } else if runs[next].code == ORDER[taken] {
                    at = next;
                } else {
                    break;
                }
                if at == count {
                    (at, shift) = (0, shift + width);
                }
                continue;
            }
            at += 1;
            if at == count {
                (at, shift) = (0, shift + width);
                // A bar that the edge cuts is one bar.
                if runs[0].code == run.code && run.end == shift && runs[0].start == 0 && count > 1 {
                    run.end = runs[0].end + shift;
                    at = 1;
                }
            }
            bars[taken] = run;
            taken += 1;
        }
        // The first bar may begin before the edge.
        let head = runs[count - 1];
        if taken == 6 && first == 0 && head.code == ORDER[0] && head.end == width && runs[0].start == 0 && count > 6 {
            bars.iter_mut().for_each(|bar| (bar.start, bar.end) = (bar.start + width, bar.end + width));
            bars[0].start = head.start;
        }
        if taken == 6
            && let Some(span) = regular(&bars, width)
        {
            return Some(span);
        }
    }
    None
}

/// The runs of a row. A disturbance of up to two cells inside a run belongs to it. `None` for a row with too many runs.
fn runs_of(cells: &[u8], runs: &mut [CellRun; RUNS_MAX]) -> Option<usize> {
    let mut count = 0;
    for (at, code) in cells.iter().copied().enumerate().filter(|(_, code)| *code != 0) {
        if count > 0 && runs[count - 1].code == code && at - runs[count - 1].end <= 2 {
            runs[count - 1].end = at + 1;
            continue;
        }
        // A run of one cell is a disturbance.
        if count > 0 && runs[count - 1].end - runs[count - 1].start < 2 {
            count -= 1;
            if count > 0 && runs[count - 1].code == code && at - runs[count - 1].end <= 2 {
                runs[count - 1].end = at + 1;
                continue;
            }
        }
        if count == RUNS_MAX {
            return None;
        }
        runs[count] = CellRun { code, start: at, end: at + 1 };
        count += 1;
    }
    Some(count)
}

/// Six runs of equal width at equal distances, wide enough together.
fn regular(bars: &[CellRun; 6], width: usize) -> Option<Span> {
    let centre = |bar: &CellRun| (bar.start + bar.end) as f32 / 2.0;
    let step = (centre(&bars[5]) - centre(&bars[0])) / 5.0;
    let is_regular = |(n, bar): (usize, &CellRun)| {
        let wide = (bar.end - bar.start) as f32;
        let off = centre(bar) - (centre(&bars[0]) + step * n as f32);
        off.abs() <= 0.25 * step && wide >= 0.55 * step && wide <= 1.3 * step
    };
    let fits = step >= 3.0 && 6.0 * step >= SPAN_MIN * width as f32 && 6.0 * step <= 1.05 * width as f32;
    let start = (centre(&bars[0]) - step / 2.0).max(0.0);
    (fits && bars.iter().enumerate().all(is_regular)).then_some(Span { start, bar: step })
}
