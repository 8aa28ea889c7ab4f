//! Finds recordings and stills that show the same, so that they stay on one side of a split.
//!
//! Two recordings show the same when at least a third of the shorter one's seconds, and at least two, look like a second of the
//! other. Two stills show the same when they look alike; a still and a recording, when the still looks like a second of it. All
//! pairs are compared, except those of one group. A comparison takes 64 bits, so a hundred thousand stills take seconds. Only
//! the middle frame of a second is known, so a still from elsewhere in the second is found only when the picture hardly moves.
//!
//! The limits come from an inspection of 187 clips and 7,200 photographs of sports:
//!
//! - The same take, scaled and encoded again, differs by 0 to 4 bits. Two tennis courts from the same camera position differ by
//!   12 to 14 bits, two recordings of different sports by 14 or more.
//! - A squashed or cropped copy of a photograph differs from it by 0 to 10 bits. From 8 bits on, photographs of different sports
//!   are among the nearest pairs.
//! - A frame of a clip, scaled and saved as JPEG, differs from its second by 0 to 4 bits, and by 0 to 8 bits when it is from
//!   0.3 s later. The nearest pair of an unrelated photograph and clip differs by 8 bits, and shows two sports.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use super::prints::Print;
use super::{Item, ItemOrigin, Kind};

/// Most bits (of 64) by which two seconds of recordings differ that look alike.
const RECORDING_BITS: u32 = 8;

/// Most bits for two stills of one class.
const STILL_BITS: u32 = 10;

/// Most bits for two stills of different classes. Their scenes differ, so similar hashes are more often a coincidence.
const STILL_BITS_ACROSS: u32 = 6;

/// Most bits for a still and a second of a recording, of one class.
const FRAME_BITS: u32 = 8;

/// Most bits for a still and a second of a recording, of different classes.
const FRAME_BITS_ACROSS: u32 = 4;

/// One in this many seconds of the shorter recording must be in the other.
const SHARE: usize = 3;

/// Fewest seconds that must be in the other recording. A single one may be a coincidence.
const SECONDS_MIN: usize = 2;

/// Least standard deviation of the brightness. A picture below it is a fade, a black screen or fog, and its hash is noise.
const SPREAD_MIN: u8 = 12;

/// Items that show the same.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    /// Number of pairs of recordings.
    pub recordings: usize,
    /// Number of pairs of stills.
    pub stills: usize,
    /// Number of pairs of a still and a recording.
    pub frames: usize,
    /// Number of groups that were merged into others.
    pub groups_joined: usize,
    /// All pairs.
    pub reports: Vec<DuplicateReport>,
}

/// A line of `duplicates.csv`: two items that show the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct DuplicateReport {
    /// Kind of `a`.
    pub kind: Kind,
    pub a: String,
    pub b: String,
    pub class_a: String,
    pub class_b: String,
    /// Seconds of the shorter item that are in the other. A still counts as one second.
    pub alike: usize,
    /// Seconds of the shorter item that can be compared.
    pub of: usize,
    /// Bits by which the nearest second differs.
    pub distance: u32,
}

/// Two items that show the same, by index. The other fields are those of [`DuplicateReport`].
struct Pair {
    a: usize,
    b: usize,
    alike: usize,
    of: usize,
    distance: u32,
}

/// Finds the items that show the same, and merges their groups. `prints` has the fingerprints of each item.
pub(super) fn find(items: &mut [(Item, ItemOrigin)], prints: &[Vec<Print>]) -> Duplicates {
    let usable: Vec<Vec<Print>> =
        prints.iter().map(|p| p.iter().copied().filter(|p| p.spread >= SPREAD_MIN).collect()).collect();
    let of = |is_still: bool| -> Vec<usize> {
        (0..items.len()).filter(|i| items[*i].0.kind.is_still() == is_still && !usable[*i].is_empty()).collect()
    };
    let item = |i: usize| &items[i].0;
    let (of_recordings, of_stills) = (of(false), of(true));
    let recordings = pairs(&of_recordings, |a, b| {
        if item(a).group == item(b).group { None } else { recordings_alike(&usable[a], &usable[b]) }
    });
    let stills = pairs(&of_stills, |a, b| {
        let distance = usable[a][0].distance(usable[b][0]);
        let bits = if item(a).class == item(b).class { STILL_BITS } else { STILL_BITS_ACROSS };
        (distance <= bits && item(a).group != item(b).group).then_some((1, 1, distance))
    });
    let frames = pairs_between(&of_stills, &of_recordings, |a, b| {
        let distance = usable[b].iter().map(|frame| usable[a][0].distance(*frame)).min()?;
        let bits = if item(a).class == item(b).class { FRAME_BITS } else { FRAME_BITS_ACROSS };
        (distance <= bits && item(a).group != item(b).group).then_some((1, 1, distance))
    });
    let (recording_pairs, still_pairs, frame_pairs) = (recordings.len(), stills.len(), frames.len());
    let mut groups = Groups::new(items.iter().map(|(i, _)| i.group.as_str()));
    let mut reports = Vec::new();
    for pair in recordings.iter().chain(&stills).chain(&frames) {
        let (a, b) = (item(pair.a), item(pair.b));
        groups.join(&a.group, &b.group);
        reports.push(DuplicateReport {
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
    Duplicates { recordings: recording_pairs, stills: still_pairs, frames: frame_pairs, groups_joined, reports }
}

/// `alike`, `of` and `distance` of a [`Pair`]; `None` for items that do not show the same.
type Similarity = Option<(usize, usize, u32)>;

/// Returns all pairs within `of` that `alike` accepts, in order.
fn pairs(of: &[usize], alike: impl Fn(usize, usize) -> Similarity + Sync) -> Vec<Pair> {
    (0..of.len()).into_par_iter().flat_map_iter(|n| with(of[n], &of[n + 1..], &alike)).collect()
}

/// Returns all pairs of one of `of` and one of `others` that `alike` accepts, in order.
fn pairs_between(of: &[usize], others: &[usize], alike: impl Fn(usize, usize) -> Similarity + Sync) -> Vec<Pair> {
    of.par_iter().flat_map_iter(|a| with(*a, others, &alike)).collect()
}

/// Returns all pairs of `a` and one of `others` that `alike` accepts, in order.
fn with(a: usize, others: &[usize], alike: impl Fn(usize, usize) -> Similarity) -> Vec<Pair> {
    let pair = |b: usize| alike(a, b).map(|(alike, of, distance)| Pair { a, b, alike, of, distance });
    others.iter().filter_map(|b| pair(*b)).collect()
}

/// Returns the number of seconds of the shorter recording that look like a second of the other, the number of its seconds, and
/// the distance of the nearest second; [`None`] when too few look alike.
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

/// Disjoint sets of group names that are merged.
pub(super) struct Groups<'a> {
    /// Name → a name of the same set. The first name of a set is its own parent.
    parents: BTreeMap<&'a str, &'a str>,
    /// Number of merges so far.
    pub joined: usize,
}

impl<'a> Groups<'a> {
    /// Returns one set for each name.
    pub fn new(names: impl Iterator<Item = &'a str>) -> Self {
        Self { parents: names.map(|name| (name, name)).collect(), joined: 0 }
    }

    /// Returns the first name of the set with `name`.
    fn first(&self, name: &str) -> &'a str {
        let mut parent = self.parents[name];
        while self.parents[parent] != parent {
            parent = self.parents[parent];
        }
        parent
    }

    /// Merges the sets of two names.
    pub fn join(&mut self, a: &str, b: &str) {
        let (a, b) = (self.first(a), self.first(b));
        if a != b {
            // The alphabetically first name remains, so that the order of the merges does not matter.
            self.parents.insert(a.max(b), a.min(b));
            self.joined += 1;
        }
    }

    /// Returns the name of the set with `name`.
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

    fn item(kind: Kind, class: &str, name: &str) -> (Item, ItemOrigin) {
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
        (item, ItemOrigin { root: 0, key: String::new() })
    }

    fn groups(items: &[(Item, ItemOrigin)]) -> Vec<&str> {
        items.iter().map(|(i, _)| i.group.as_str()).collect()
    }

    #[test]
    fn only_recordings_that_show_the_same_are_merged() {
        let far = |n: u64| print(0x0123_4567_89ab_cdef_u64.wrapping_mul(2 * n + 1).rotate_left(n as u32));
        // b has two of a's four seconds, slightly changed; c has one of b's, which may be a coincidence; d is a without contrast.
        let a: Vec<Print> = (0..4).map(far).collect();
        let b = vec![far(10), print(a[1].hash ^ 0b111), print(a[2].hash ^ 0xf), far(11)];
        let c = vec![far(20), far(10), far(21)];
        let flat = |p: &Print| Print { spread: SPREAD_MIN - 1, ..*p };
        let d: Vec<Print> = a.iter().map(flat).collect();
        let mut items = ["a", "b", "c", "d"].map(|name| item(Kind::Clip, "tennis", name)).to_vec();
        let duplicates = find(&mut items, &[a, b, c, d]);
        assert_eq!(groups(&items), ["a", "a", "c", "d"]);
        assert_eq!((duplicates.recordings, duplicates.stills, duplicates.groups_joined), (1, 0, 1));
        let pair = &duplicates.reports[0];
        assert_eq!((pair.a.as_str(), pair.b.as_str(), pair.alike, pair.of, pair.distance), ("a", "b", 2, 4, 3));
    }

    #[test]
    fn stills_are_merged_in_chains_and_two_classes_need_fewer_bits() {
        let names = [("tennis", "z"), ("tennis", "y"), ("tennis", "x"), ("golf", "w"), ("golf", "v")];
        let mut items = names.map(|(class, name)| item(Kind::Picture, class, name)).to_vec();
        let bits = |n: u32| print((1u64 << n) - 1);
        // Stills of tennis differ by 10 bits from one to the next; w differs by 8 from x, of another class; v by 6 from w.
        let prints = [bits(0), bits(10), bits(20), bits(28), bits(34)].map(|p| vec![p]);
        let duplicates = find(&mut items, &prints);
        assert_eq!(groups(&items), ["x", "x", "x", "v", "v"]);
        assert_eq!((duplicates.stills, duplicates.groups_joined), (3, 3));
    }

    #[test]
    fn a_still_is_merged_with_the_recording_it_is_a_frame_of() {
        let recordings = [vec![print(0xf0f0_f0f0_0000_0000), print(0xffff_ffff)], vec![print(0x00ff_00ff_00ff_00ff)]];
        for (class, bits, joined) in [("golf", 8, true), ("golf", 9, false), ("tennis", 4, true), ("tennis", 5, false)]
        {
            // Differs by `bits` bits from the first second of the first recording.
            let still = print(0xf0f0_f0f0_0000_0000 ^ ((1 << bits) - 1));
            let kinds = [(Kind::Clip, "golf", "a"), (Kind::Clip, "golf", "b"), (Kind::Picture, class, "c")];
            let mut items = kinds.map(|(kind, class, name)| item(kind, class, name)).to_vec();
            let [a, b] = recordings.clone();
            let duplicates = find(&mut items, &[a, b, vec![still]]);
            assert_eq!(groups(&items), if joined { ["a", "b", "a"] } else { ["a", "b", "c"] }, "{class} {bits}");
            assert_eq!((duplicates.recordings, duplicates.stills, duplicates.frames), (0, 0, usize::from(joined)));
        }
    }

    #[test]
    fn items_of_one_group_are_not_listed() {
        let mut items = vec![item(Kind::Clip, "golf", "a"), item(Kind::Clip, "golf", "a")];
        let duplicates = find(&mut items, &[vec![print(1), print(2)], vec![print(1), print(2)]]);
        assert!(duplicates.reports.is_empty(), "{duplicates:?}");
    }
}
