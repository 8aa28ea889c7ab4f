//! The memory and the folder of corrections.

use std::path::Path;
use std::sync::Arc;

use super::types::{AnswerKind, Author, Correction, CorrectionRefusal, NewCorrection};
use super::{CorrectionStore, HeldSecond, Memory};
use crate::config::TeachSettings;
use crate::metrics::Metrics;
use crate::testing::{classes, predicted};
use touchline_core::clock::ManualClock;
use touchline_core::decision::{SecondOutcome, SecondPrediction};
use touchline_core::labels::ClassId;
use touchline_core::time::{NANOS_PER_SECOND, RunId};
use touchline_media::gst::clips::{SeenPicture, SeenSecond};

const START_NS: i64 = 1_700_000_000_000_000_000;

fn decided(index: u64, label: &str, probability: f32) -> SecondPrediction {
    let SecondOutcome::Predicted(mut second) = predicted(index, label, probability).outcome else { unreachable!() };
    second.wall.unix_ns = START_NS + (index * NANOS_PER_SECOND) as i64;
    second
}

/// A second with a picture and a tenth of a second of sound.
fn seen() -> SeenSecond {
    let mut jpeg = Vec::new();
    let picture = image::RgbImage::from_pixel(64, 48, image::Rgb([90, 120, 60]));
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg).encode_image(&picture).unwrap();
    let picture = SeenPicture { offset_ns: 500_000_000, width: 64, height: 48, jpeg };
    SeenSecond { pictures: vec![picture], sound: vec![1000; 1600] }
}

fn held(stream: &str, index: u64, label: &str, probability: f32) -> HeldSecond {
    HeldSecond::new(stream.into(), &decided(index, label, probability), seen(), 0)
}

/// A memory without limits that holds seconds of stream `a`.
fn memory(seconds: impl IntoIterator<Item = (u64, &'static str, f32)>) -> Memory {
    let memory = Memory::new(1 << 30, 600, Some(16_000), Arc::new(ManualClock::default()));
    for (index, label, probability) in seconds {
        memory.hold(held("a", index, label, probability));
    }
    memory
}

fn indices(seconds: &[Arc<HeldSecond>]) -> Vec<u64> {
    seconds.iter().map(|held| held.index).collect()
}

#[test]
fn the_memory_keeps_its_size_and_its_age() {
    let clock = Arc::new(ManualClock::default());
    let size = seen().bytes() as u64;
    // Three quarters of the size are for the latest seconds: nine of them.
    let memory = Memory::new(12 * size, 600, None, clock.clone());
    for index in 0..40 {
        memory.hold(held("a", index, "tennis", 0.99));
    }
    assert_eq!(indices(&memory.span("a", RunId(0), (0, 100))), (31..40).collect::<Vec<_>>());
    assert!(memory.bytes() as u64 <= 12 * size);
    assert!(memory.find("a", RunId(0), 39).is_some());
    for (stream, run, index) in [("a", 0, 3), ("a", 1, 39), ("b", 0, 39)] {
        assert!(memory.find(stream, RunId(run), index).is_none(), "{stream} {run} {index}");
    }
    clock.advance(601 * NANOS_PER_SECOND);
    let late = HeldSecond::new("a".into(), &decided(40, "tennis", 0.99), seen(), 601 * NANOS_PER_SECOND);
    memory.hold(late);
    assert_eq!(indices(&memory.span("a", RunId(0), (0, 100))), [40]);
    // One that is larger than all.
    let huge = SeenSecond { pictures: Vec::new(), sound: vec![0; 20 * size as usize] };
    memory.hold(HeldSecond::new("a".into(), &decided(41, "tennis", 0.99), huge, 601 * NANOS_PER_SECOND));
    assert_eq!(memory.bytes(), 0);
}

#[test]
fn doubtful_seconds_are_suggested_one_a_block_and_stay_longer() {
    let clock = Arc::new(ManualClock::default());
    let size = seen().bytes() as u64;
    let memory = Memory::new(16 * size, 600, None, clock);
    let probability = |index| match index {
        3 => 0.4,
        4 => 0.45,
        15 => 0.5,
        _ => 0.99,
    };
    for index in 0..60 {
        memory.hold(held("a", index, "tennis", probability(index)));
    }
    assert!(memory.find("a", RunId(0), 4).is_none(), "a neighbour is more doubtful");
    let all = memory.suggestions(10, |_| false);
    assert_eq!(indices(&all)[..2], [3, 15], "the most doubtful first");
    assert_eq!(indices(&memory.suggestions(1, |_| false)), [3]);
    assert_eq!(indices(&memory.suggestions(1, |held| held.block() == (0, 9))), [15]);
    // The shadow contradicts one of which the pack is sure.
    let sure = memory.find("a", RunId(0), 58).unwrap();
    assert!(sure.doubt() < 0.1);
    memory.shadow_said("a", RunId(0), 58, ClassId(0));
    memory.shadow_said("a", RunId(0), 2, ClassId(0));
    assert!(sure.doubt() > 0.7 && sure.shadow() == Some(ClassId(0)));
    assert!(indices(&memory.suggestions(3, |_| false)).contains(&58));
    assert!(memory.bytes() as u64 <= 16 * size);
}

#[test]
fn many_doubtful_seconds_stay_within_a_quarter_of_the_size() {
    let size = seen().bytes() as u64;
    let memory = Memory::new(16 * size, 600, None, Arc::new(ManualClock::default()));
    for index in 0..200 {
        memory.hold(held("a", 10 * index, "tennis", if index % 20 == 0 { 0.3 } else { 0.5 }));
    }
    assert!(memory.bytes() as u64 <= 16 * size);
    let kept = indices(&memory.span("a", RunId(0), (0, 1800)));
    assert!(
        kept.len() >= 4 && kept.iter().filter(|index| **index < 1800).all(|index| index % 200 == 0 || *index > 1500),
        "{kept:?}"
    );
}

fn settings(dir: &Path) -> TeachSettings {
    TeachSettings { dir: dir.into(), memory_bytes: 1 << 30, memory_s: 600, max_bytes: 1 << 30, keep_s: None }
}

fn open(settings: TeachSettings, clock: &Arc<ManualClock>, metrics: &Metrics) -> CorrectionStore {
    CorrectionStore::open(settings, Arc::new(classes()), clock.clone(), metrics.clone()).unwrap()
}

fn never() -> bool {
    false
}

fn author() -> Author {
    Author { by: "token".into(), address: "192.0.2.7".into() }
}

fn new(from: u64, to: u64, class: Option<&str>) -> NewCorrection {
    let answer = if class.is_some() { AnswerKind::Class } else { AnswerKind::Confirm };
    NewCorrection { stream: "a".into(), run: RunId(0), from, to, answer, class: class.map(str::to_owned) }
}

fn manifest(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("clips/manifest.csv")).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.remove(0), "path,class,source,audio");
    lines
}

#[test]
fn answers_are_kept_with_their_material_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Arc::new(ManualClock::default()), Metrics::new());
    clock.advance(START_NS as u64 + 1_000);
    let store = open(settings(dir.path()), &clock, &metrics);
    assert_eq!(manifest(dir.path()), Vec::<String>::new(), "an empty folder has a manifest");
    let memory = memory((0..20).map(|index| (index, if index < 15 { "tennis" } else { "soccer" }, 0.6)));
    let (tennis, replaced) = store.add(&memory, &new(0, 9, Some("soccer")), author(), &never).unwrap();
    assert_eq!((tennis.seconds, tennis.decision.label.as_str(), replaced.len()), (10, "tennis", 0));
    assert_eq!((tennis.at.as_str(), tennis.author.address.as_str()), ("2023-11-14T22:13:20.000Z", "192.0.2.7"));
    let file = dir.path().join("clips").join(tennis.file.as_ref().unwrap());
    assert_eq!(file.metadata().unwrap().len(), tennis.bytes);
    // Of two decisions the more frequent one is confirmed.
    let (confirmed, _) = store.add(&memory, &new(12, 19, None), author(), &never).unwrap();
    assert_eq!((confirmed.class.as_deref(), confirmed.seconds), (Some("soccer"), 5));
    let unsure = NewCorrection { answer: AnswerKind::Unsure, ..new(10, 11, None) };
    let (unsure, _) = store.add(&memory, &unsure, author(), &never).unwrap();
    assert_eq!((&unsure.class, &unsure.file), (&None, &None));
    assert_eq!(manifest(dir.path()).len(), 2, "nothing learns from doubt");
    assert!(manifest(dir.path())[0].ends_with(".mkv,soccer,a/2023-11-14,yes"), "{:?}", manifest(dir.path()));
    for index in [0, 11, 19] {
        assert!(store.has_answer(&memory.find("a", RunId(0), index).unwrap()), "{index}");
    }

    let before = store.list();
    assert_eq!(before.len(), 3);
    drop(store);
    std::fs::write(dir.path().join("clips/a-1-0.0-9.mkv.part"), "x").unwrap();
    let store = open(settings(dir.path()), &clock, &metrics);
    assert_eq!(store.list(), before);
    assert!(!dir.path().join("clips/a-1-0.0-9.mkv.part").exists(), "unfinished files are removed");
    store.remove(&tennis.id, author()).unwrap();
    assert_eq!(store.remove(&tennis.id, author()), Err(CorrectionRefusal::Unknown(tennis.id.clone())));
    assert!(!file.exists());
    let store = open(settings(dir.path()), &clock, &metrics);
    assert_eq!(store.list().len(), 2);
    let text = metrics.encode();
    assert!(text.contains("touchline_corrections_total{result=\"kept\"} 3"), "{text}");
    assert!(text.contains("touchline_corrections_kept 2"), "{text}");
}

#[test]
fn a_newer_answer_replaces_older_ones_that_it_covers() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Arc::new(ManualClock::default()), Metrics::new());
    let store = open(settings(dir.path()), &clock, &metrics);
    let memory = memory((0..20).map(|index| (index, "tennis", 0.6)));
    let add = |from, to, class| store.add(&memory, &new(from, to, Some(class)), author(), &never);
    let (first, _) = add(4, 6, "soccer").unwrap();
    let Err(CorrectionRefusal::Overlaps(id)) = add(6, 9, "soccer") else {
        panic!("the rest of the first would be lost")
    };
    assert_eq!(id, first.id);
    let (again, replaced) = add(4, 6, "other").unwrap();
    assert_eq!((again.id.as_str(), replaced.len()), (first.id.as_str(), 0), "the same seconds are the same correction");
    let unsure = NewCorrection { answer: AnswerKind::Unsure, ..new(4, 6, None) };
    assert_eq!(store.add(&memory, &unsure, author(), &never).unwrap().0.id, first.id);
    assert_eq!(std::fs::read_dir(dir.path().join("clips")).unwrap().count(), 1, "its file is gone");
    let (wide, replaced) = add(0, 9, "soccer").unwrap();
    assert_eq!(replaced, std::slice::from_ref(&first.id));
    let names = |store: &CorrectionStore| -> Vec<String> { store.list().into_iter().map(|kept| kept.id).collect() };
    assert_eq!(names(&store), [wide.id.as_str()]);
    assert_eq!(std::fs::read_dir(dir.path().join("clips")).unwrap().count(), 2, "its file and the manifest");
    let store = open(settings(dir.path()), &clock, &metrics);
    assert_eq!(names(&store), [wide.id], "also after a restart");
}

#[test]
fn refusals_leave_nothing_behind_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Arc::new(ManualClock::default()), Metrics::new());
    let memory = memory((0..3).map(|index| (index, "tennis", 0.6)));
    let small = TeachSettings { max_bytes: 2 * seen().bytes() as u64, ..settings(dir.path()) };
    let store = open(small, &clock, &metrics);
    let add = |from, to| store.add(&memory, &new(from, to, Some("soccer")), author(), &never).map(|_| ());
    assert_eq!(add(100, 110), Err(CorrectionRefusal::NotHeld));
    assert_eq!(add(0, 2), Err(CorrectionRefusal::Full));
    // The folder disappears, as a disk does.
    std::fs::remove_dir_all(dir.path().join("clips")).unwrap();
    assert!(matches!(add(0, 0), Err(CorrectionRefusal::Failed(_))));
    assert!(store.list().is_empty() && !dir.path().join("corrections.jsonl").exists());
    let text = metrics.encode();
    for result in ["not-held", "full", "failed"] {
        assert!(text.contains(&format!("touchline_corrections_total{{result=\"{result}\"}} 1")), "{text}");
    }
}

#[test]
fn a_long_span_is_represented_by_some_of_its_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Arc::new(ManualClock::default()), Metrics::new());
    let store = open(settings(dir.path()), &clock, &metrics);
    let memory = memory((0..500).map(|index| (index, "tennis", 0.6)));
    let (kept, _) = store.add(&memory, &new(0, 499, Some("soccer")), author(), &never).unwrap();
    assert_eq!((kept.from, kept.to, kept.seconds), (0, 499, 120));
}

#[test]
fn old_corrections_are_removed_if_the_settings_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Arc::new(ManualClock::default()), Metrics::new());
    clock.advance(START_NS as u64);
    let brief = TeachSettings { keep_s: Some(86_400), ..settings(dir.path()) };
    let store = open(brief.clone(), &clock, &metrics);
    let memory = memory((0..5).map(|index| (index, "tennis", 0.6)));
    store.add(&memory, &new(0, 1, Some("soccer")), author(), &never).unwrap();
    clock.advance(86_401 * NANOS_PER_SECOND);
    let (second, _) = store.add(&memory, &new(3, 4, Some("soccer")), author(), &never).unwrap();
    assert_eq!(store.list(), [second]);
    assert_eq!(manifest(dir.path()).len(), 1);
    assert_eq!(open(brief, &clock, &metrics).list().len(), 1);
}

#[test]
fn damaged_and_hostile_lines_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Arc::new(ManualClock::default()), Metrics::new());
    let memory = memory((0..5).map(|index| (index, "tennis", 0.6)));
    let store = open(settings(dir.path()), &clock, &metrics);
    let (kept, _) = store.add(&memory, &new(0, 1, Some("soccer")), author(), &never).unwrap();
    let journal = dir.path().join("corrections.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    let outside = dir.path().join("holiday.mkv");
    std::fs::write(&outside, "mine").unwrap();
    let hostile: Vec<String> = ["../holiday.mkv", "/etc/passwd", "..", "", "a/b.mkv"]
        .iter()
        .zip(10..)
        .map(|(file, from)| {
            let file = Some((*file).to_owned());
            let hostile = Correction { id: format!("x{from}"), from, to: from, file, ..kept.clone() };
            serde_json::to_string(&hostile).unwrap()
        })
        .collect();
    // A kill has cut the last line short.
    let lines = [&hostile.join("\n"), "nonsense", "{\"removed\":7}", &text[..40]].join("\n");
    std::fs::write(&journal, format!("{text}{lines}")).unwrap();
    let store = open(settings(dir.path()), &clock, &metrics);
    assert_eq!(store.list(), [kept]);
    let (late, _) = store.add(&memory, &new(3, 3, Some("soccer")), author(), &never).unwrap();
    assert_eq!(open(settings(dir.path()), &clock, &metrics).list().len(), 2, "the next line is whole");
    std::fs::remove_file(dir.path().join("clips").join(late.file.unwrap())).unwrap();
    assert_eq!(open(settings(dir.path()), &clock, &metrics).list().len(), 1, "its file is gone");
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "mine");
}

#[test]
fn streams_with_odd_names_stay_in_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Arc::new(ManualClock::default()), Metrics::new());
    let store = open(settings(dir.path()), &clock, &metrics);
    for stream in ["..", ".", "-x", "...-1"] {
        let memory = Memory::new(1 << 30, 600, Some(16_000), Arc::new(ManualClock::default()));
        memory.hold(held(stream, 0, "tennis", 0.6));
        let new = NewCorrection { stream: stream.into(), ..new(0, 0, Some("soccer")) };
        let (kept, _) = store.add(&memory, &new, author(), &never).unwrap();
        assert!(dir.path().join("clips").join(kept.file.unwrap()).is_file(), "{stream}");
    }
    assert_eq!(open(settings(dir.path()), &clock, &metrics).list().len(), 4);
}

#[test]
fn seconds_without_pictures_are_sounds() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Arc::new(ManualClock::default()), Metrics::new());
    let store = open(settings(dir.path()), &clock, &metrics);
    let memory = Memory::new(1 << 30, 600, Some(16_000), Arc::new(ManualClock::default()));
    let radio = SeenSecond { pictures: Vec::new(), ..seen() };
    memory.hold(HeldSecond::new("a".into(), &decided(0, "tennis", 0.6), radio, 0));
    assert!(memory.suggestions(9, |_| false).is_empty(), "there is nothing to show");
    let (kept, _) = store.add(&memory, &new(0, 0, Some("soccer")), author(), &never).unwrap();
    let file = dir.path().join("sounds").join(kept.file.as_ref().unwrap());
    assert!(file.is_file() && manifest(dir.path()).is_empty());
    let sounds = || std::fs::read_to_string(dir.path().join("sounds/manifest.csv")).unwrap().lines().count();
    assert_eq!(sounds(), 2);
    let store = open(settings(dir.path()), &clock, &metrics);
    assert_eq!(store.list(), std::slice::from_ref(&kept));
    store.remove(&kept.id, author()).unwrap();
    assert!(!file.exists() && sounds() == 1);
}

#[test]
fn a_restart_that_repeats_the_numbers_of_runs_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, metrics) = (Arc::new(ManualClock::default()), Metrics::new());
    let store = open(settings(dir.path()), &clock, &metrics);
    let (first, _) = store.add(&memory([(7, "tennis", 0.6)]), &new(7, 7, Some("soccer")), author(), &never).unwrap();
    let memory = Memory::new(1 << 30, 600, Some(16_000), Arc::new(ManualClock::default()));
    let mut later = decided(7, "tennis", 0.6);
    later.wall.unix_ns += 300 * NANOS_PER_SECOND as i64;
    memory.hold(HeldSecond::new("a".into(), &later, seen(), 0));
    assert!(!store.has_answer(&memory.find("a", RunId(0), 7).unwrap()));
    let (second, replaced) = store.add(&memory, &new(7, 7, Some("other")), author(), &never).unwrap();
    assert!(replaced.is_empty() && second.id != first.id);
    assert_eq!(store.list().len(), 2);
    assert_eq!(open(settings(dir.path()), &clock, &metrics).list().len(), 2);
}
