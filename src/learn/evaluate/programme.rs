//! Simulated programmes: recordings of one side in a random order, with known cuts.
//!
//! A recording of a dataset shows one class, so no event begins or ends within it. A programme is a sequence of scenes. A scene
//! shows one class from one source, as whole recordings one after another. A scene of `other` (studio, advertisements) follows
//! every second scene of a sport on average, at half its length.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;

use super::scores::SoftSecond;
use crate::augment::rng;
use crate::dataset::Kind;
use touchline_core::decision::Decision;
use touchline_core::fusion::FusionTable;
use touchline_core::labels::{ClassId, ClassSet, OTHER};

/// Length of a programme, seconds: ten of the longest scenes.
const SECONDS: u64 = 1800;

/// Programmes for each length of scenes. With the folds of a cross-validation, ten hours for each length.
const PROGRAMMES: u32 = 4;

/// Decisions on the seconds of a recording; `None` for a second that cannot be decided.
pub type Recording = Vec<Option<Decision>>;

/// Recordings of one class from one source.
#[derive(Debug)]
struct SourceRecordings {
    class: ClassId,
    group: u32,
    recordings: Vec<Recording>,
}

/// The recordings that programmes are made of.
#[derive(Debug)]
pub struct RecordingPool {
    /// Sources of each sport.
    sports: Vec<Vec<SourceRecordings>>,
    /// Sources of `other`.
    other: Vec<SourceRecordings>,
}

/// A stretch of a programme with one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The class.
    pub class: ClassId,
    /// Group (source) of its recordings.
    pub group: u32,
    /// Its first second.
    pub first: u64,
    /// The second after its last.
    pub end: u64,
}

/// A simulated programme.
#[derive(Debug, Default)]
pub struct Programme<'a> {
    /// Its scenes, without a gap.
    pub scenes: Vec<Scene>,
    /// Decisions on its seconds.
    pub seconds: Vec<Option<&'a Decision>>,
}

impl RecordingPool {
    /// Collects the clips among `seconds`, decided by `fusion`. `groups` has the source of each item. `None` when there are too few
    /// classes for a change: no sport, or one sport and no `other`.
    pub fn new(seconds: &[SoftSecond], fusion: &FusionTable, classes: &ClassSet, groups: &[u32]) -> Option<Self> {
        let mut recordings: BTreeMap<(ClassId, u32, u32), Recording> = BTreeMap::new();
        for s in seconds.iter().filter(|s| s.kind == Kind::Clip) {
            let key = (s.truth, groups[s.item as usize], s.recording);
            recordings.entry(key).or_default().push(fusion.decide(&s.scores));
        }
        let mut sources: BTreeMap<ClassId, Vec<SourceRecordings>> = BTreeMap::new();
        for ((class, group, _), recording) in recordings {
            let sources = sources.entry(class).or_default();
            match sources.last_mut() {
                Some(source) if source.group == group => source.recordings.push(recording),
                _ => sources.push(SourceRecordings { class, group, recordings: vec![recording] }),
            }
        }
        let other = classes.id(OTHER).and_then(|id| sources.remove(&id)).unwrap_or_default();
        let pool = Self { sports: sources.into_values().collect(), other };
        let kinds = pool.sports.len() + usize::from(!pool.other.is_empty());
        (kinds > 1 && !pool.sports.is_empty()).then_some(pool)
    }

    /// Makes the programmes with scenes of `scene_seconds` on average. They depend on `seed` and the pool only.
    pub fn programmes(&self, scene_seconds: u32, seed: u64) -> impl Iterator<Item = Programme<'_>> {
        (0..PROGRAMMES).map(move |n| self.programme(scene_seconds, &mut rng(seed, u64::from(scene_seconds), n)))
    }

    fn programme(&self, scene_seconds: u32, rng: &mut SmallRng) -> Programme<'_> {
        let mut programme = Programme::default();
        while (programme.seconds.len() as u64) < SECONDS {
            let before = programme.scenes.last().map(|scene| scene.class);
            let choices: Vec<&Vec<SourceRecordings>> =
                self.sports.iter().filter(|s| Some(s[0].class) != before).collect();
            let after_sport = before.is_some() && self.other.iter().all(|source| Some(source.class) != before);
            let is_other = after_sport && !self.other.is_empty() && (choices.is_empty() || rng.random_bool(0.5));
            let sources = if is_other { &self.other } else { choices[rng.random_range(0..choices.len())] };
            let source = &sources[rng.random_range(0..sources.len())];
            let mean = if is_other { scene_seconds / 2 } else { scene_seconds };
            let seconds = rng.random_range(mean / 2..=mean * 3 / 2).max(1);
            programme.add(source, u64::from(seconds), rng);
        }
        programme
    }
}

impl<'a> Programme<'a> {
    /// Adds a scene of at least one second, cut at the end of the programme.
    fn add(&mut self, source: &'a SourceRecordings, seconds: u64, rng: &mut SmallRng) {
        let first = self.seconds.len() as u64;
        let end = (first + seconds).min(SECONDS);
        while (self.seconds.len() as u64) < end {
            let recording = &source.recordings[rng.random_range(0..source.recordings.len())];
            let room = end - self.seconds.len() as u64;
            self.seconds.extend(recording.iter().take(room as usize).map(Option::as_ref));
        }
        self.scenes.push(Scene { class: source.class, group: source.group, first, end });
    }

    /// The scene that shows a second.
    pub fn scene_at(&self, second: u64) -> &Scene {
        let at = self.scenes.partition_point(|scene| scene.end <= second);
        &self.scenes[at.min(self.scenes.len() - 1)]
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    impl<'a> Programme<'a> {
        /// A programme of scenes with a decision for each of their seconds.
        pub fn of(scenes: Vec<Scene>, seconds: &'a [Option<Decision>]) -> Self {
            assert_eq!(scenes.last().unwrap().end, seconds.len() as u64);
            Self { scenes, seconds: seconds.iter().map(Option::as_ref).collect() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scores::testing::{logits_for, table};
    use super::super::scores::{ScoreTable, SoftSecond};
    use super::*;
    use touchline_core::decision::PerModality;
    use touchline_core::labels::Modality;

    const PICTURES: PerModality<f32> = PerModality { rgb: 1.0, flow: 1.0, audio: 1.0 };

    fn classes() -> ClassSet {
        ClassSet::new(["golf", "other", "tennis"].map(str::to_owned).to_vec()).unwrap()
    }

    /// Adds recordings of a class from a source, of these lengths. Their label is always right.
    fn add(t: &mut ScoreTable, truth: u16, source: &str, lengths: &[usize]) {
        for length in lengths {
            let second = PerModality { rgb: vec![logits_for(truth.into(), 2.0, 3)], ..PerModality::default() };
            t.add(Kind::Clip, truth, source, vec![second; *length]);
        }
    }

    fn pool(t: &ScoreTable) -> Option<RecordingPool> {
        let soft: Vec<SoftSecond> = t.soften(&PICTURES);
        let fusion = super::super::table::fit_table(&soft, &[Modality::Rgb], 3);
        RecordingPool::new(&soft, &fusion, &classes(), &t.groups())
    }

    #[test]
    fn scenes_are_made_of_whole_recordings_of_one_source() {
        let mut t = table(3);
        add(&mut t, 0, "a", &[3, 5]);
        add(&mut t, 0, "b", &[7]);
        add(&mut t, 1, "c", &[4]);
        add(&mut t, 2, "d", &[2]);
        let pool = pool(&t).unwrap();
        for length in [20, 180] {
            let programmes: Vec<Programme> = pool.programmes(length, 1).collect();
            assert_eq!(programmes.len() as u32, PROGRAMMES);
            for p in &programmes {
                assert_eq!((p.seconds.len() as u64, p.scenes.last().unwrap().end), (SECONDS, SECONDS));
                assert_eq!((p.scenes[0].first, p.scenes[0].class != ClassId(1)), (0, true), "a sport comes first");
                for (scene, next) in p.scenes.iter().zip(&p.scenes[1..]) {
                    assert_eq!(scene.end, next.first);
                    assert_ne!(scene.class, next.class, "a cut is a change");
                    let (mean, seconds) =
                        (if scene.class == ClassId(1) { length / 2 } else { length }, scene.end - scene.first);
                    assert!((u64::from(mean / 2)..=u64::from(mean * 3 / 2)).contains(&seconds), "{scene:?}");
                    assert!((scene.first..scene.end).all(|s| p.scene_at(s) == scene));
                }
                for (i, second) in p.seconds.iter().enumerate() {
                    assert_eq!(second.unwrap().label, p.scene_at(i as u64).class);
                }
            }
            let shows = |class| programmes.iter().flat_map(|p| &p.scenes).filter(|s| s.class == ClassId(class)).count();
            assert!(shows(0) > 0 && shows(1) > 0 && shows(2) > 0);
            let again: Vec<Programme> = pool.programmes(length, 1).collect();
            let scenes = |all: &[Programme]| all.iter().map(|p| p.scenes.clone()).collect::<Vec<_>>();
            assert_eq!(scenes(&programmes), scenes(&again));
            assert_ne!(scenes(&programmes), scenes(&pool.programmes(length, 2).collect::<Vec<_>>()));
        }
    }

    #[test]
    fn a_programme_needs_a_change() {
        let mut t = table(3);
        assert!(pool(&t).is_none(), "no recording");
        add(&mut t, 1, "c", &[4]);
        assert!(pool(&t).is_none(), "no sport");
        add(&mut t, 2, "d", &[2]);
        let one = pool(&t).unwrap();
        let p = one.programmes(20, 1).next().unwrap();
        assert!(p.scenes.iter().zip(&p.scenes[1..]).all(|(a, b)| a.class != b.class), "one sport and other alternate");
        t.items.retain(|item| item.truth == ClassId(2));
        t.seconds.retain(|second| second.item == 1);
        t.seconds.iter_mut().for_each(|second| second.item = 0);
        assert!(pool(&t).is_none(), "one sport alone does not change");
        add(&mut t, 0, "a", &[2]);
        assert!(pool(&t).is_some());
    }
}
