//! The times of all units of a source: where clips begin, and which tracks they have.

use std::ops::RangeInclusive;

use touchline_core::item::Track;

use super::unit::Unit;

#[derive(Clone, Copy, Debug)]
struct RingEntry {
    run: u32,
    pts_ns: i64,
    is_key: bool,
}

/// Times per track, in decoding order.
#[derive(Debug, Default)]
pub(super) struct Index {
    tracks: [Vec<RingEntry>; 2],
}

impl Index {
    pub fn push(&mut self, unit: &Unit) {
        let Unit { run, pts_ns, is_key, .. } = *unit;
        self.tracks[unit.track.index()].push(RingEntry { run, pts_ns, is_key });
    }

    /// The times of the units of a track in a run, ascending.
    pub fn times(&self, run: u32, track: Track) -> Vec<i64> {
        let entries = self.tracks[track.index()].iter().filter(|entry| entry.run == run);
        let mut times: Vec<i64> = entries.map(|entry| entry.pts_ns).collect();
        times.sort_unstable();
        times
    }

    /// The units of the clip from `from_ns` to `to_ns` of a run; [`None`] without media.
    ///
    /// It begins at the last key picture at or before `from_ns`, or at the first one after it if there is none before. It ends with the
    /// last unit in decoding order that is shown before `to_ns`, so that no picture lacks one that it refers to.
    pub fn span(&self, run: u32, from_ns: i64, to_ns: i64) -> Option<ClipSpan> {
        let of = |track: Track| {
            let entries = self.tracks[track.index()].iter().enumerate();
            entries.filter(move |(_, entry)| entry.run == run && entry.pts_ns < to_ns)
        };
        let last = |track| of(track).map(|(place, _)| place).max();
        let keys = || of(Track::Video).filter(|(_, entry)| entry.is_key);
        let key = keys().rfind(|(_, entry)| entry.pts_ns <= from_ns).or_else(|| keys().next());
        let is_shown = of(Track::Video).any(|(_, entry)| entry.pts_ns >= from_ns);
        let key = key.filter(|_| is_shown);
        let video = key.and_then(|(place, _)| Some(place..=last(Track::Video)?));
        let sound_ns = key.map_or(from_ns, |(_, entry)| entry.pts_ns);
        let sound = of(Track::Audio).find(|(_, entry)| entry.pts_ns >= sound_ns);
        let audio = sound.and_then(|(place, _)| Some(place..=last(Track::Audio)?));
        let (_, first) = key.or(sound)?;
        Some(ClipSpan { begin_ns: first.pts_ns, places: [video, audio] })
    }
}

/// The units of a clip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClipSpan {
    /// PTS of the first picture, or of the first sound without pictures.
    pub begin_ns: i64,
    /// First and last place in each track.
    pub places: [Option<RangeInclusive<usize>>; 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(video: &[(u32, i64, bool)], audio: &[(u32, i64)]) -> Index {
        Index {
            tracks: [
                video.iter().map(|&(run, pts_ns, is_key)| RingEntry { run, pts_ns, is_key }).collect(),
                audio.iter().map(|&(run, pts_ns)| RingEntry { run, pts_ns, is_key: true }).collect(),
            ],
        }
    }

    #[test]
    fn clips_begin_at_the_key_picture_before_their_start() {
        let index = index(
            &[
                (0, 10, true),
                (0, 30, false),
                (0, 20, false),
                (0, 40, true),
                (0, 50, false),
                (1, 0, true),
                (1, 10, false),
            ],
            &[(0, 8), (0, 28), (0, 48), (1, 5)],
        );
        let span = |run, from, to| index.span(run, from, to).map(|span| (span.begin_ns, span.places));
        assert_eq!(span(0, 35, 45), Some((10, [Some(0..=3), Some(1..=1)])));
        assert_eq!(span(0, 15, 25), Some((10, [Some(0..=2), None])), "with the picture that the last one refers to");
        assert_eq!(span(0, 40, 60), Some((40, [Some(3..=4), Some(2..=2)])));
        assert_eq!(span(0, 0, 60), Some((10, [Some(0..=4), Some(1..=2)])), "the media begin later");
        assert_eq!(span(1, 8, 20), Some((0, [Some(5..=6), Some(3..=3)])));
        assert_eq!(span(0, 60, 90), None);
        assert_eq!(span(2, 0, 60), None);
    }

    #[test]
    fn sound_alone_begins_where_it_is_wanted() {
        let index = index(&[], &[(0, 0), (0, 20), (0, 40)]);
        assert_eq!(index.span(0, 15, 40), Some(ClipSpan { begin_ns: 20, places: [None, Some(1..=1)] }));
    }
}
