//! Cross-validation by source through the program. Every source is scored by a model that did not learn from it,
//! photographs and frames are reported separately, and classes that cannot be measured are named.

use std::fmt::Write as _;
use std::path::Path;

use crate::common::training::{CLASSES, first_weights, make_stills, run};
use touchline_compute::models::pack::Pack;
use touchline_core::labels::Modality;
use touchline_learn::dataset::{Dataset, Kind};
use touchline_learn::evaluate::cross::{Cross, CrossReport};
use touchline_learn::evaluate::result::{KindReport, Predictor};

/// A dataset of stills. Two classes have twelve photographs and eight frames of four sources each; the third class has
/// two frames of one source.
fn dataset(dir: &Path) {
    let mut csv = "path,class,source,kind\n".to_owned();
    for (class, name) in CLASSES.iter().enumerate() {
        make_stills(dir, class, 20);
        for i in 0..20 {
            let line = match (class, i) {
                (2, 0..=1) => format!("{name}/{i}.png,{name},only,frame"),
                (2, _) => continue,
                (_, 0..=11) => format!("{name}/{i}.png,{name},,picture"),
                _ => format!("{name}/{i}.png,{name},match-{name}-{},frame", i % 4),
            };
            writeln!(csv, "{line}").unwrap();
        }
    }
    std::fs::write(dir.join("stills.csv"), csv).unwrap();
    let printed = run(dir, "dataset build stills.csv -o set").well();
    assert!(printed.contains("24 pictures, 18 frames"), "{printed}");
    run(dir, "dataset split set").well();
}

fn folds(out: &str, more: &str) -> String {
    format!("train rgb set -o {out} --init {} --unfreeze 0 --still-views 0 --views 0 {more}", first_weights())
}

fn figures(dir: &Path, file: &str) -> Vec<CrossReport> {
    serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap()
}

#[test]
fn every_source_is_held_out_once_and_kinds_are_reported_separately() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    dataset(dir);
    let training = run(dir, &folds("cv", "--folds 3"));
    let note = format!("holds out all material of {}", CLASSES[2]);
    assert!(training.error.contains(&note), "{}", training.error);
    assert!(training.well().contains("touchline evaluate --cv cv set"));
    run(dir, &folds("half", "--folds 3 --sources 0.5")).well();
    let out = run(dir, "evaluate --cv half --cv cv set --json cv.json").well();
    assert!(out.contains("mean over sources") && out.contains("frames"), "{out}");

    // New views for each epoch of each fold.
    let tuned = folds("tuned", "--folds 2 --fresh-views --epochs 2").replace("--unfreeze 0", "--unfreeze 1");
    run(dir, &tuned).well();
    run(dir, "evaluate --cv tuned set --json tuned.json").well();
    assert_eq!(figures(dir, "tuned.json").len(), 1);

    let [half, all] = figures(dir, "cv.json").try_into().expect("two runs");
    assert_eq!(all.events, None, "stills have no seconds to vote over");
    run(dir, "evaluate --cv cv set --vote-window 601").refused(2, &["--vote-window", "1 to 600"]);
    assert!(half.sources_per_class < all.sources_per_class, "{} {}", half.sources_per_class, all.sources_per_class);
    assert!(all.notes.join(" ").contains(&format!("{} (2)", CLASSES[2])), "{:?}", all.notes);
    let report_of = |kind| -> &KindReport {
        all.kinds.iter().find(|r| r.kind == kind && r.predictor == Predictor::Rgb).expect("the kind was measured")
    };
    // Up to one source of frames of each class is on the test side. Cross-validation uses the other two sides.
    let frames = report_of(Kind::Frame);
    assert!((12..=16).contains(&frames.items) && frames.sources == frames.items / 2, "{frames:?}");
    assert!(frames.classes.iter().all(|c| c.class != CLASSES[2] && c.right.ends().is_some()), "{frames:?}");
    let pictures = report_of(Kind::Picture);
    assert!(pictures.items >= 20 && pictures.accuracy > 0.9, "{pictures:?}");

    // The same seed gives the same figures. Finished folds are not trained again.
    let again = run(dir, &folds("cv", "--folds 3 --resume"));
    assert!(!again.error.contains("epoch 1/"), "{}", again.error);
    again.well();
    run(dir, "evaluate --cv cv set --json again.json").well();
    assert_eq!(figures(dir, "again.json"), [all]);
}

#[test]
fn invalid_and_incomplete_folds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    dataset(dir);
    for (more, word) in [("--folds 1", "1"), ("--sources 0.5", "--folds"), ("--folds 3 --sources 1.5", "at most 1")] {
        let refused = run(dir, &folds("cv", more));
        assert!(refused.code == 2 && refused.error.contains(word), "{} {}", refused.code, refused.error);
    }
    run(dir, "evaluate --cv cv set").refused(6, &["cv", "no finished cross-validation", "train --folds"]);
    run(dir, &folds("cv", "--folds 2")).well();
    run(dir, &folds("cv", "--folds 3")).refused(6, &["cv/rgb/fold-1", "--resume"]);
    // Folds cannot become a pack, and they cannot be evaluated on another split.
    run(dir, "pack build cv --dataset set -o pack --name folds").refused(6, &["cv", "no finished training"]);
    // A pack cannot keep a model with classes that the runs lack.
    run(dir, &folds("run", "")).well();
    let kept = crate::common::program::pack();
    let build = format!("pack build run --keep {} --dataset set -o pack --name mixed", kept.display());
    run(dir, &build).refused(6, &[&kept.display().to_string(), "which the runs do not", "train flow too"]);
    // The folds give a pack its temperature and threshold: more sources than validation has.
    run(dir, "pack build run --cv cv --dataset set -o folded --name folded").well();
    let folded = Pack::open(&dir.join("folded")).unwrap();
    let of_folds = Cross::open(&dir.join("cv"), &Dataset::open(&dir.join("set")).unwrap()).unwrap().fitted();
    assert_eq!(folded.model(Modality::Rgb).unwrap().temperature, of_folds.temperatures.rgb);
    assert!(folded.unknown.is_some() && folded.unknown == of_folds.unknown, "{:?}", folded.unknown);
    assert!(folded.card.split.contains("from its folds"), "{}", folded.card.split);
    run(dir, "pack build run --cv run --dataset set -o other --name other").refused(6, &["run", "train --folds"]);
    let scores = dir.join("cv/rgb/held-out.safetensors");
    let whole = std::fs::read(&scores).unwrap();
    std::fs::write(&scores, &whole[..whole.len() / 2]).unwrap();
    run(dir, "evaluate --cv cv set").refused(6, &["held-out.safetensors", "--resume"]);
    std::fs::write(&scores, whole).unwrap();
    run(dir, "evaluate --cv cv set").well();
    run(dir, "dataset split set --seed 9").well();
    run(dir, "evaluate --cv cv set").refused(6, &["cv/rgb", "another split", "--seed"]);
    let refused = run(dir, "evaluate set");
    assert!(
        refused.code == 2 && refused.error.contains("<PACK>") && refused.error.contains("--cv"),
        "{}",
        refused.error
    );
}
