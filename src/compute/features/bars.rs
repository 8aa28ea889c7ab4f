//! Bars: the black margins of letterboxed pictures, of 4:3 and of portrait pictures in a wide one.
//!
//! The picture model sees a square in the middle, and bars take up to two thirds of it. They are cut off first. A second is looked
//! at by itself, so the result does not depend on where a stream was joined or a recording was split.

use touchline_core::clip::ClipSecond;
use touchline_core::frame::{Frame, RgbView};
use touchline_core::pool::Pooled;

/// The highest value of a colour in a bar. Black is 0, and encoders add noise.
const BLACK_MAX: u8 = 28;

/// Bars are at least this share of the side, and at most [`SHARE_MAX`]. A portrait picture (9:16) in a wide one has 0.34.
const SHARE_MIN: f64 = 0.04;
const SHARE_MAX: f64 = 0.4;

/// Two opposite bars differ by at most this share of the side. Anything else is dark content.
const UNEQUAL_MAX: f64 = 0.02;

/// Widths of the bars of a picture, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bars {
    top: usize,
    bottom: usize,
    left: usize,
    right: usize,
}

/// Returns `second` with its frames for the RGB model cut to their content; `None` if they have no bars. The pairs for the flow model keep
/// their frames.
///
/// Bars are what is black in all of these frames: a dark scene between bright ones has none.
pub fn without_bars(second: &ClipSecond) -> Option<ClipSecond> {
    let frames = || second.rgb.iter().map(|at| &second.frames[*at]);
    let mut common: Option<Bars> = None;
    for frame in frames() {
        // A black frame has no content to find bars by.
        let Some(black) = margins(frame.view()) else { continue };
        let bars = common.map_or(black, |bars| bars.and(black));
        if bars == Bars::NONE {
            return None;
        }
        common = Some(bars);
    }
    let first = frames().next()?;
    let bars = common?.plausible(first.view());
    let is_one_size = frames().all(|frame| (frame.width, frame.height) == (first.width, first.height));
    if bars == Bars::NONE || !is_one_size {
        return None;
    }
    let mut cut = second.clone();
    cut.frames.extend(frames().map(|frame| bars.cut_off(frame)));
    cut.rgb = (second.frames.len()..cut.frames.len()).collect();
    Some(cut)
}

/// The black margins of a picture; `None` if all of it is black.
fn margins(view: RgbView<'_>) -> Option<Bars> {
    let is_bright = |value: &u8| *value > BLACK_MAX;
    let row_is_black = |row: &&[u8]| !row.iter().any(is_bright);
    let rows = view.data.chunks_exact(3 * view.width);
    let top = rows.clone().take_while(row_is_black).count();
    if top == view.height {
        return None;
    }
    let bottom = rows.clone().rev().take_while(row_is_black).count();
    let (mut left, mut right) = (view.width, view.width);
    for row in rows.skip(top).take(view.height - top - bottom) {
        left = left.min(row.iter().position(is_bright).map_or(view.width, |at| at / 3));
        right = right.min(row.iter().rev().position(is_bright).map_or(view.width, |at| at / 3));
        if (left, right) == (0, 0) {
            break;
        }
    }
    Some(Bars { top, bottom, left, right })
}

impl Bars {
    const NONE: Bars = Bars { top: 0, bottom: 0, left: 0, right: 0 };

    /// What is black in both.
    fn and(self, other: Bars) -> Bars {
        Bars {
            top: self.top.min(other.top),
            bottom: self.bottom.min(other.bottom),
            left: self.left.min(other.left),
            right: self.right.min(other.right),
        }
    }

    /// The margins that are bars by their sizes.
    fn plausible(self, view: RgbView<'_>) -> Bars {
        let pair = |first: usize, last: usize, side: usize| {
            let share = |pixels: usize| pixels as f64 / side as f64;
            let (least, most) = (share(first.min(last)), share(first.max(last)));
            if least >= SHARE_MIN && most <= SHARE_MAX && most - least <= UNEQUAL_MAX { (first, last) } else { (0, 0) }
        };
        let (top, bottom) = pair(self.top, self.bottom, view.height);
        let (left, right) = pair(self.left, self.right, view.width);
        Bars { top, bottom, left, right }
    }

    fn cut_off(self, frame: &Frame) -> Frame {
        let (width, height) = (frame.width as usize, frame.height as usize);
        let (columns, rows) = (width - self.left - self.right, height - self.top - self.bottom);
        let kept = frame.view().data.chunks_exact(3 * width).skip(self.top).take(rows);
        let data: Vec<u8> = kept.flat_map(|row| &row[3 * self.left..3 * (self.left + columns)]).copied().collect();
        Frame::new(Pooled::detached(data), columns as u32, rows as u32, frame.pts, frame.arrived_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::time::Pts;

    /// A picture of 160×90 with bars of these widths, noise in them, and content without black.
    fn frame(top: usize, bottom: usize, left: usize, right: usize) -> Frame {
        let pixel = |at: usize| {
            let (x, y) = (at % 160, at / 160);
            let is_bar = y < top || y >= 90 - bottom || x < left || x >= 160 - right;
            if is_bar { [(at % 13) as u8; 3] } else { [40 + (x % 200) as u8, 90, 200 - (y % 100) as u8] }
        };
        let data: Vec<u8> = (0..160 * 90).flat_map(pixel).collect();
        Frame::new(Pooled::detached(data), 160, 90, Pts(0), 0)
    }

    fn cut(frames: Vec<Frame>) -> Option<(u32, u32)> {
        let second = ClipSecond::of_pictures(frames);
        let cut = without_bars(&second)?;
        assert_eq!((cut.frames.len(), cut.rgb.len()), (2 * second.frames.len(), second.rgb.len()));
        let sizes: Vec<_> = cut.rgb.iter().map(|at| (cut.frames[*at].width, cut.frames[*at].height)).collect();
        assert!(sizes.iter().all(|size| *size == sizes[0]));
        Some(sizes[0])
    }

    #[test]
    fn bars_are_cut_off_and_the_content_stays() {
        assert_eq!(cut(vec![frame(11, 11, 0, 0)]), Some((160, 68)), "21:9");
        assert_eq!(cut(vec![frame(0, 0, 20, 20)]), Some((120, 90)), "4:3");
        assert_eq!(cut(vec![frame(0, 0, 55, 54)]), Some((51, 90)), "portrait");
        assert_eq!(cut(vec![frame(9, 9, 16, 17)]), Some((127, 72)), "all sides");
        let second = ClipSecond::of_pictures(vec![frame(11, 11, 20, 20)]);
        let cut = without_bars(&second).unwrap();
        let (before, after) = (second.frames[0].view(), cut.frames[1].view());
        for (x, y) in [(0, 0), (119, 67), (60, 30)] {
            let at = |view: RgbView<'_>, x: usize, y: usize| view.data[3 * (y * view.width + x)..][..3].to_vec();
            assert_eq!(at(after, x, y), at(before, x + 20, y + 11));
        }
    }

    #[test]
    fn dark_content_is_no_bar() {
        for (name, frames) in [
            ("no bars", vec![frame(0, 0, 0, 0)]),
            ("a dark sky", vec![frame(30, 0, 0, 0)]),
            ("unequal", vec![frame(10, 20, 0, 0)]),
            ("thin lines of an encoder", vec![frame(2, 2, 1, 1)]),
            ("a spot of light", vec![frame(40, 40, 0, 0)]),
            ("a dark frame among bright ones", vec![frame(11, 11, 0, 0), frame(0, 0, 0, 0)]),
            ("black", vec![frame(90, 0, 0, 0)]),
            ("no frames", Vec::new()),
        ] {
            assert_eq!(cut(frames), None, "{name}");
        }
    }

    #[test]
    fn frames_of_a_second_share_their_bars() {
        let black = frame(90, 0, 0, 0);
        assert_eq!(cut(vec![frame(11, 11, 0, 0), black, frame(13, 12, 0, 0)]), Some((160, 68)));
    }
}
