//! Recordings and stills that show the same, so that they end on one side of a split.
//!
//! Two recordings show the same when a third of the shorter one's seconds, and two at least, look like a second of the
//! other; two stills, when they look alike; a still and a recording, when the still looks like a second of it. Every pair
//! is compared: that is 64 bits each, so that a hundred thousand stills take seconds. What is of one group already is not
//! compared. Of a second only the middle frame is known: a still from elsewhere in it is found where the picture hardly
//! moves.
//!
//! The distances were chosen by looking at 187 clips and 7,200 photographs of sports. The same take, scaled and encoded
//! anew, is 0 to 4 bits away; two tennis courts from the same camera position 12 to 14, two recordings of different
//! sports 14 and more. Photographs: one squashed and one not, or a crop, are 0 to 10 away; from 8 on photographs of
//! different sports are among the nearest pairs. A frame of a clip, scaled and saved as JPEG, is 0 to 4 away from its
//! second and 0.3 s later 0 to 8; of photographs and clips that have nothing to do with each other the nearest pair is 8
//! away, and of two sports.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use super::prints::Print;
use super::{Item, Kind, Origin};

/// Seconds of recordings that look alike differ by at most so many of 64 bits.
const RECORDING_BITS: u32 = 8;

/// Stills of one class that look alike.
const STILL_BITS: u32 = 10;

/// Stills of two classes: the scenes differ, so that equal hashes are more often chance.
const STILL_BITS_ACROSS: u32 = 6;

/// A still and a second of a recording, of one class.
const FRAME_BITS: u32 = 8;

/// Of two classes.
const FRAME_BITS_ACROSS: u32 = 4;

/// Of a recording's seconds, one in so many must be in the other.
const SHARE: usize = 3;

/// And at least so many: one look alike is chance.
const SECONDS_MIN: usize = 2;

/// A picture whose brightness varies less than this (standard deviation) is a fade, a black screen or fog: its hash is
/// noise.
const SPREAD_MIN: u8 = 12;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Pairs of recordings.
    pub recordings: usize,
    /// Pairs of stills.
    pub stills: usize,
    /// Pairs of a still and a recording.
    pub frames: usize,
    /// How many groups are fewer than before.
    pub groups_joined: usize,
    pub lines: Vec<Line>,
}

/// A line of `duplicates.csv`: two items that show the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub kind: Kind,
    pub a: String,
    pub b: String,
    pub class_a: String,
    pub class_b: String,
    /// Seconds of the shorter one that are in the other; a still counts as one.
    pub alike: usize,
    /// Of how many that can be compared.
    pub of: usize,
    /// Bits that the nearest second differs by.
    pub distance: u32,
}

/// Two items that show the same, by index.
struct Pair {
    a: usize,
    b: usize,
    alike: usize,
    of: usize,
    distance: u32,
}

/// Finds what shows the same, and joins the groups of it; `prints` are those of the items.
pub(super) fn find(items: &mut [(Item, Origin)], prints: &[Vec<Print>]) -> Found {
    let telling: Vec<Vec<Print>> =
        prints.iter().map(|p| p.iter().copied().filter(|p| p.spread >= SPREAD_MIN).collect()).collect();
    let of = |is_still: bool| -> Vec<usize> {
        (0..items.len()).filter(|i| items[*i].0.kind.is_still() == is_still && !telling[*i].is_empty()).collect()
    };
    let item = |i: usize| &items[i].0;
    let (of_recordings, of_stills) = (of(false), of(true));
    let recordings = pairs(&of_recordings, |a, b| {
        if item(a).group == item(b).group { None } else { recordings_alike(&telling[a], &telling[b]) }
    });
    let stills = pairs(&of_stills, |a, b| {
        let distance = telling[a][0].distance(telling[b][0]);
        let bits = if item(a).class == item(b).class { STILL_BITS } else { STILL_BITS_ACROSS };
        (distance <= bits && item(a).group != item(b).group).then_some((1, 1, distance))
    });
    let frames = pairs_between(&of_stills, &of_recordings, |a, b| {
        let distance = telling[b].iter().map(|frame| telling[a][0].distance(*frame)).min()?;
        let bits = if item(a).class == item(b).class { FRAME_BITS } else { FRAME_BITS_ACROSS };
        (distance <= bits && item(a).group != item(b).group).then_some((1, 1, distance))
    });
    let (recordings_found, stills_found, frames_found) = (recordings.len(), stills.len(), frames.len());
    let mut groups = Groups::new(items.iter().map(|(i, _)| i.group.as_str()));
    let mut lines = Vec::new();
    for pair in recordings.iter().chain(&stills).chain(&frames) {
        let (a, b) = (item(pair.a), item(pair.b));
        groups.join(&a.group, &b.group);
        lines.push(Line {
            kind: a.kind,
            a: a.path.to_string_lossy().into_owned(),
            b: b.path.to_string_lossy().into_owned(),
            class_a: a.class.clone(),
            class_b: b.class.clone(),
            alike: pair.alike,
            of: pair.of,
            distance: pair.distance,
        });
    }
    let names: Vec<String> = items.iter().map(|(i, _)| groups.name_of(&i.group)).collect();
    let groups_joined = groups.joined;
    for ((item, _), name) in items.iter_mut().zip(names) {
        item.group = name;
    }
    Found { recordings: recordings_found, stills: stills_found, frames: frames_found, groups_joined, lines }
}

/// What [`Pair`] holds besides the two items.
type Alike = Option<(usize, usize, u32)>;

/// All pairs for which `alike` says so, in order.
fn pairs(of: &[usize], alike: impl Fn(usize, usize) -> Alike + Sync) -> Vec<Pair> {
    (0..of.len()).into_par_iter().flat_map_iter(|n| with(of[n], &of[n + 1..], &alike)).collect()
}

/// All pairs of one of `of` and one of `others` for which `alike` says so, in order.
fn pairs_between(of: &[usize], others: &[usize], alike: impl Fn(usize, usize) -> Alike + Sync) -> Vec<Pair> {
    of.par_iter().flat_map_iter(|a| with(*a, others, &alike)).collect()
}

fn with(a: usize, others: &[usize], alike: impl Fn(usize, usize) -> Alike) -> Vec<Pair> {
    let found = |b: usize| alike(a, b).map(|(alike, of, distance)| Pair { a, b, alike, of, distance });
    others.iter().filter_map(|b| found(*b)).collect()
}

/// How many seconds of the shorter one look like one of the other, of how many, and how near the nearest is; [`None`]
/// when they are too few.
fn recordings_alike(a: &[Print], b: &[Print]) -> Option<(usize, usize, u32)> {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let needed = short.len().div_ceil(SHARE).max(SECONDS_MIN);
    if short.len() < needed {
        return None;
    }
    let nearest = |p: &Print| long.iter().map(|q| p.distance(*q)).min();
    let near: Vec<u32> = short.iter().filter_map(nearest).filter(|d| *d <= RECORDING_BITS).collect();
    let distance = near.iter().copied().min()?;
    (near.len() >= needed).then_some((near.len(), short.len(), distance))
}

/// Sets of group names that were joined.
pub(super) struct Groups<'a> {
    /// Name → a name of the same set; its own for the first of a set.
    parents: BTreeMap<&'a str, &'a str>,
    pub joined: usize,
}

impl<'a> Groups<'a> {
    pub fn new(names: impl Iterator<Item = &'a str>) -> Self {
        Self { parents: names.map(|name| (name, name)).collect(), joined: 0 }
    }

    fn first(&self, name: &str) -> &'a str {
        let mut parent = self.parents[name];
        while self.parents[parent] != parent {
            parent = self.parents[parent];
        }
        parent
    }

    pub fn join(&mut self, a: &str, b: &str) {
        let (a, b) = (self.first(a), self.first(b));
        if a != b {
            // The name that comes first in the alphabet stays, so that the order of joining does not matter.
            self.parents.insert(a.max(b), a.min(b));
            self.joined += 1;
        }
    }

    pub fn name_of(&self, name: &str) -> String {
        self.first(name).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(hash: u64) -> Print {
        Print { hash, spread: 50 }
    }

    fn item(kind: Kind, class: &str, name: &str) -> (Item, Origin) {
        let item = Item {
            kind,
            path: name.into(),
            class: class.into(),
            source: name.into(),
            group: name.into(),
            weak: false,
            audible: false,
            licence: String::new(),
            start_ns: None,
            end_ns: None,
            seconds: 3,
            shard: None,
        };
        (item, Origin { root: 0, key: String::new() })
    }

    fn groups(items: &[(Item, Origin)]) -> Vec<&str> {
        items.iter().map(|(i, _)| i.group.as_str()).collect()
    }

    #[test]
    fn what_shows_the_same_is_joined_and_only_that() {
        let far = |n: u64| print(0x0123_4567_89ab_cdef_u64.wrapping_mul(2 * n + 1).rotate_left(n as u32));
        // b holds two of a's four seconds, slightly changed; c one of b's, which is chance; d two flat ones.
        let a: Vec<Print> = (0..4).map(far).collect();
        let b = vec![far(10), print(a[1].hash ^ 0b111), print(a[2].hash ^ 0xf), far(11)];
        let c = vec![far(20), far(10), far(21)];
        let flat = |p: &Print| Print { spread: SPREAD_MIN - 1, ..*p };
        let d: Vec<Print> = a.iter().map(flat).collect();
        let mut items = ["a", "b", "c", "d"].map(|name| item(Kind::Clip, "tennis", name)).to_vec();
        let found = find(&mut items, &[a, b, c, d]);
        assert_eq!(groups(&items), ["a", "a", "c", "d"]);
        assert_eq!((found.recordings, found.stills, found.groups_joined), (1, 0, 1));
        let line = &found.lines[0];
        assert_eq!((line.a.as_str(), line.b.as_str(), line.alike, line.of, line.distance), ("a", "b", 2, 4, 3));
    }

    #[test]
    fn stills_are_joined_in_chains_and_classes_ask_for_more() {
        let names = [("tennis", "z"), ("tennis", "y"), ("tennis", "x"), ("golf", "w"), ("golf", "v")];
        let mut items = names.map(|(class, name)| item(Kind::Picture, class, name)).to_vec();
        let bits = |n: u32| print((1u64 << n) - 1);
        // 10 bits from one to the next within tennis; w is 8 from x, and of another class; v is 6 from w.
        let prints = [bits(0), bits(10), bits(20), bits(28), bits(34)].map(|p| vec![p]);
        let found = find(&mut items, &prints);
        assert_eq!(groups(&items), ["x", "x", "x", "v", "v"]);
        assert_eq!((found.stills, found.groups_joined), (3, 3));
    }

    #[test]
    fn a_still_is_joined_to_the_recording_it_is_a_frame_of() {
        let recordings = [vec![print(0xf0f0_f0f0_0000_0000), print(0xffff_ffff)], vec![print(0x00ff_00ff_00ff_00ff)]];
        for (class, bits, joined) in [("golf", 8, true), ("golf", 9, false), ("tennis", 4, true), ("tennis", 5, false)]
        {
            // So many bits from the first second of the first recording.
            let still = print(0xf0f0_f0f0_0000_0000 ^ ((1 << bits) - 1));
            let kinds = [(Kind::Clip, "golf", "a"), (Kind::Clip, "golf", "b"), (Kind::Picture, class, "c")];
            let mut items = kinds.map(|(kind, class, name)| item(kind, class, name)).to_vec();
            let [a, b] = recordings.clone();
            let found = find(&mut items, &[a, b, vec![still]]);
            assert_eq!(groups(&items), if joined { ["a", "b", "a"] } else { ["a", "b", "c"] }, "{class} {bits}");
            assert_eq!((found.recordings, found.stills, found.frames), (0, 0, usize::from(joined)));
        }
    }

    #[test]
    fn what_is_of_one_group_is_not_listed() {
        let mut items = vec![item(Kind::Clip, "golf", "a"), item(Kind::Clip, "golf", "a")];
        let found = find(&mut items, &[vec![print(1), print(2)], vec![print(1), print(2)]]);
        assert!(found.lines.is_empty(), "{found:?}");
    }
}
