//! Whole evaluations of generated score tables.

use rand::Rng;

use super::result::Predictor;
use super::scores::testing::{logits_for, table};
use super::*;
use crate::augment::rng;

/// Three classes and `groups` sources of three seconds with three frames each. Pictures are mostly right for classes 0 and 1 and
/// half the time for class 2, sound is right for class 2 only. Otherwise they guess between 0 and 1, and all are overconfident.
fn generated(groups: usize, seed: u64) -> ScoreTable {
    let mut t = table(3);
    t.outputs.flow = None;
    let mut rng = rng(seed, 2, 3);
    for group in 0..groups {
        let truth = group % 3;
        let mut second = || {
            let rgb = if rng.random_bool(if truth < 2 { 0.7 } else { 0.5 }) { truth } else { rng.random_range(0..2) };
            let audio = if truth == 2 { 2 } else { rng.random_range(0..2) };
            PerModality { rgb: vec![logits_for(rgb, 4.0, 3); 3], flow: vec![], audio: vec![logits_for(audio, 4.0, 3)] }
        };
        let seconds = vec![second(), second(), second()];
        t.add(Kind::Clip, truth as u16, &format!("g{group:03}"), seconds);
        let picture = PerModality { rgb: vec![logits_for(truth, 4.0, 3)], ..PerModality::default() };
        t.add(Kind::Picture, truth as u16, &format!("p{group:03}"), vec![picture]);
    }
    t
}

fn deciders(validation: &ScoreTable) -> PackParameters {
    let Fitted { temperatures, fusion, .. } = fit(validation);
    PackParameters { pack: "hand".into(), weights_sha256: "0".into(), temperatures, fusion, known_from: 0.0 }
}

fn settings() -> Settings {
    Settings {
        dataset: "made".into(),
        side: Side::Test,
        dataset_classes: ["a", "b", "c"].map(String::from).into(),
        vote: VoteConfig::default(),
        seed: 1,
    }
}

fn evaluated(test: &ScoreTable, validation: &ScoreTable) -> Evaluation {
    evaluate(&deciders(validation), test, Some(validation), &settings(), &mut |_, _| None)
}

/// An evaluation, for tests that replace a part of it.
pub(super) fn any() -> Evaluation {
    evaluated(&generated(6, 2), &generated(6, 1))
}

#[test]
fn an_evaluation_is_complete_and_its_figures_are_consistent() {
    let (validation, test) = (generated(45, 1), generated(30, 2));
    let e = evaluated(&test, &validation);
    let find = |level, predictor| e.reports.iter().find(|r| r.level == level && r.predictor == predictor).unwrap();
    let kinds: Vec<(Level, Predictor)> = e.reports.iter().map(|r| (r.level, r.predictor)).collect();
    use Predictor::{Audio, Learned, Rgb, Table};
    let mut want = vec![(Level::Frame, Rgb), (Level::Frame, Audio)];
    for level in [Level::Second, Level::Video] {
        want.extend([Rgb, Audio, Table, Learned].map(|p| (level, p)));
    }
    assert_eq!(kinds, want, "nothing to fuse at frame level; no flow");
    assert_eq!((find(Level::Frame, Rgb).n, find(Level::Second, Rgb).n, find(Level::Video, Rgb).n), (270, 90, 30));
    let shares = |kind| e.shares.iter().filter(move |share| share.kind == kind);
    assert_eq!((shares(Kind::Clip).count(), shares(Kind::Picture).count(), e.shares.len()), (30, 30, 60));
    let right: u64 = shares(Kind::Clip).map(|share| share.right).sum();
    assert_eq!(
        right as f64 / 30.0,
        e.kinds.iter().find(|r| r.kind == Kind::Clip && r.predictor == Table).unwrap().accuracy
    );
    for report in &e.reports {
        assert_eq!(report.confusion.iter().flatten().sum::<u64>(), report.n);
        assert_eq!(report.per_class.iter().map(|c| c.support).sum::<u64>(), report.n);
        let (low, high) = report.accuracy.ends().unwrap();
        assert!(low <= report.accuracy.value && report.accuracy.value <= high);
        let (low, high) = report.macro_f1.ends().unwrap();
        assert!(low < high || report.macro_f1.value == 1.0, "{report:?}");
        assert_eq!(report.top3, 1.0, "three classes");
    }
    // Sound decides class 2: the table is better than both modalities, and the improvement gives the difference.
    let f1 = |predictor| find(Level::Second, predictor).macro_f1.value;
    assert!(f1(Table) > f1(Rgb) + 0.05 && f1(Table) > f1(Audio) + 0.05 && f1(Learned) > f1(Rgb) + 0.05);
    let over = e.improvement.iter().find(|i| i.level == Level::Second && i.over == Modality::Rgb).unwrap();
    assert!((over.percent - 100.0 * (f1(Table) - f1(Rgb)) / f1(Rgb)).abs() < 1e-9);
    assert_eq!(e.improvement.len(), 4);
    let rgb = &e.calibration[0];
    assert!(rgb.ece_after < rgb.ece_before && rgb.temperature > 1.2, "{rgb:?}");
    assert_eq!(e.residuals.len(), 4);
    assert!(e.residuals.iter().all(|h| h.counts.iter().sum::<u64>() == 90 && h.edges.len() == h.counts.len() + 1));
    assert_eq!(e.importance.len(), 4);
    assert!(e.importance.iter().all(|i| i.ablation > 0.03 && i.permutation > 0.03), "{:?}", e.importance);
    // Without `other`, scenes of sports follow each other.
    let events = e.events.as_ref().unwrap();
    assert_eq!((events.vote_window, events.by_length.len()), (10, 3));
    for (of, seconds) in events.by_length.iter().zip([20, 60, 180]) {
        assert_eq!((of.scene_seconds, of.hours), (seconds, 2.0));
        let per_hour = of.scenes as f64 / of.hours;
        assert!(
            (per_hour * f64::from(seconds) / 3600.0 - 1.0).abs() < 0.25,
            "{per_hour} scenes of {seconds} s an hour"
        );
        assert!(of.missed_per_hour.value < per_hour * 0.5 && of.delay_s.unwrap().value >= 3.0, "{of:?}");
    }
    let shorter = Settings { vote: VoteConfig { window: 5, ..VoteConfig::default() }, ..settings() };
    let shorter = evaluate(&deciders(&validation), &test, None, &shorter, &mut |_, _| None).events.unwrap();
    let delay = |events: &EventFigures| events.by_length[1].delay_s.unwrap().value;
    assert!(shorter.vote_window == 5 && delay(&shorter) < delay(events));
    let c = &e.label_distribution[2];
    assert_eq!((c.recordings, c.sources, c.seconds, c.pictures), (10, 10, 30, 10));
    assert!(e.wrong.iter().all(|w| w.truth != w.predicted) && !e.wrong.is_empty());
    let json = serde_json::to_string(&e).unwrap();
    let read: Evaluation = serde_json::from_str(&json).expect("NaN would be null");
    assert_eq!((read.notes, read.reports.len(), read.wrong), (e.notes, e.reports.len(), e.wrong));
}

#[test]
fn nothing_is_fitted_on_the_test_side() {
    let (validation, test) = (generated(45, 1), generated(30, 2));
    let mut other = test.clone();
    for item in &mut other.items {
        item.truth = ClassId((item.truth.0 + 1) % 3);
    }
    // Decisions do not depend on the true classes of the test side.
    let (a, b) = (evaluated(&test, &validation), evaluated(&other, &validation));
    let predicted = |e: &Evaluation| -> Vec<Vec<u64>> {
        let columns = |m: &Vec<Vec<u64>>| (0..3).map(|c| m.iter().map(|row| row[c]).sum()).collect();
        e.reports.iter().map(|r| columns(&r.confusion)).collect()
    };
    assert_eq!(predicted(&a), predicted(&b));
    assert_ne!(a.reports, b.reports);
    let temperatures = |e: &Evaluation| e.calibration.iter().map(|c| c.temperature).collect::<Vec<_>>();
    assert_eq!(temperatures(&a), temperatures(&b));
    let learned = |e: &Evaluation| e.notes.iter().find(|n| n.starts_with("Learned fusion")).unwrap().clone();
    assert_eq!(learned(&a), learned(&b));
    // They depend on the true classes of the validation side.
    let mut swapped = validation.clone();
    swapped.items.iter_mut().for_each(|i| i.truth = ClassId((i.truth.0 + 1) % 3));
    assert_ne!(deciders(&swapped), deciders(&validation));
    assert_ne!(learned(&evaluated(&test, &swapped)), learned(&a));
}

#[test]
fn notes_report_what_the_figures_leave_out() {
    let mut test = generated(4, 3);
    test.skipped.push(("bad.mp4".into(), "no moov".into()));
    test.unknown.insert("chess".into(), 4);
    test.weak = 2;
    let settings = Settings { dataset_classes: ["a", "b"].map(String::from).into(), ..settings() };
    let e = evaluate(&deciders(&generated(45, 1)), &test, None, &settings, &mut |_, _| None);
    let all = e.notes.join("\n");
    for part in [
        "does not have: c.",
        "single source on the test side, so unreliable figures: b, c.",
        "4 still pictures (rgb): accuracy 1.000, macro F1 1.000",
        "No learned fusion",
        "2 recordings that show little",
        "4 items of classes that the pack does not have are not measured: chess (4)",
        "1 items could not be read: bad.mp4 (no moov)",
    ] {
        assert!(all.contains(part), "{part:?} in\n{all}");
    }
    assert!(e.reports.iter().all(|r| r.predictor != Predictor::Learned));
    let validation = Settings { side: Side::Validation, ..settings };
    let e = evaluate(&deciders(&test), &test, None, &validation, &mut |_, _| None);
    assert!(e.notes[0].starts_with("This is the validation side"));
}
