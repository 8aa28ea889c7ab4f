//! Invalid trainings. Each is refused with its exit code and one line that names the problem, the place and the remedy.
//! Nothing learnt is lost.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::program::{self, touchline};
use crate::common::skip::{Lacks, skip};
use crate::common::training::{first_weights, log_lines, make_stills, run, still_dataset};
use candle_core::Device;
use touchline_compute::models::read_weights;
use touchline_learn::fit::{BEST, CHECKPOINT};

/// A training of about a second: it learns only the classifier.
fn quick(dataset: &str, out: &str, more: &str) -> String {
    format!("train rgb {dataset} -o {out} --init {} --unfreeze 0 --still-views 0 {more}", first_weights())
}

#[test]
fn unusable_material_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make_stills(&dir.join("pictures"), 0, 5);
    run(dir, "dataset build pictures -o one").well();
    run(dir, &quick("one", "run", "")).refused(6, &["one", "not split", "touchline dataset split one"]);
    run(dir, "dataset split one").well();
    run(dir, &quick("one", "run", "")).refused(6, &["one", "1 class(es) can be learnt", "add recordings"]);
    run(dir, &quick("pictures", "run", "")).refused(6, &["pictures", "dataset build"]);
    run(dir, &quick("nowhere", "run", "")).refused(6, &["nowhere"]);
    assert!(!dir.join("run").exists(), "a refused training made a folder");

    // A class with one still is learnt. The program warns that it cannot be measured.
    still_dataset(dir, [8, 8, 1]);
    let training = run(dir, &quick("stills", "run", ""));
    assert!(training.error.contains("no validation samples of tennis"), "{}", training.error);
    training.well();
    assert_eq!(log_lines(&dir.join("run/rgb"), "start")[0]["validation"][2], 0);
    // Stills have no sound to learn from.
    let sound = quick("stills", "sound", "").replace("train rgb", "train audio");
    let training = run(dir, &sound);
    assert!(training.error.contains("audio: fewer than two classes have data"), "{}", training.error);
    training.refused(6, &["stills", "no usable samples"]);
}

#[test]
fn unsuitable_initial_weights_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    still_dataset(dir, [5, 5, 0]);
    let whole = std::fs::read(first_weights()).unwrap();
    std::fs::write(dir.join("half.safetensors"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(dir.join("model.pth"), b"PK\x03\x04 a zip archive, as a pickled network is").unwrap();
    let train = |init: &str, more: &str| {
        run(dir, &format!("train rgb stills -o run --init {init} --unfreeze 0 --still-views 0 {more}"))
    };
    train("model.pth", "").refused(6, &["model.pth", "not a safetensors file"]);
    train("half.safetensors", "").refused(6, &["half.safetensors", "truncated"]);
    train("nowhere.safetensors", "").refused(6, &["nowhere.safetensors"]);
    train(&first_weights(), "--arch resnet50").refused(6, &["flow.safetensors", "no tensor of resnet50", "--arch"]);
    train(&first_weights(), "--head-steps 0").refused(2, &["--head-steps"]);
    run(dir, "train rgb stills -o run --epochs 0").refused(2, &["start at random", "--epochs"]);
    assert!(!dir.join("run").exists());
}

#[test]
fn a_nan_loss_ends_the_run_and_keeps_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    still_dataset(dir, [8, 8, 8]);
    let train = format!(
        "train rgb stills -o run --init {} --unfreeze 1 --head-steps 20 --epochs 9 --batch 8 --still-views 0 \
         --learning-rate 1e30 --clip-norm 0",
        first_weights()
    );
    run(dir, &train).refused(6, &["run/rgb", "the loss is", "at step", "--learning-rate"]);
    let folder = dir.join("run/rgb");
    // The best weights of step 1 and the last checkpoint can be read.
    for file in [BEST, CHECKPOINT] {
        assert!(read_weights(&folder.join(file), &Device::Cpu).unwrap().tensors.contains_key("classifier.1.weight"));
    }
    let findings = log_lines(&folder, "finding");
    assert!(findings.iter().any(|f| f["rule"] == "exploding_tensor"), "{findings:?}");
    let page = std::fs::read_to_string(dir.join("run/report.html")).unwrap();
    assert!(page.contains("the loss is"), "the report lacks the cause");
    run(dir, &train).refused(6, &["run/rgb", "--resume"]);
    // A resumed run fails in the same way.
    run(dir, &format!("{train} --resume")).refused(6, &["run/rgb", "the loss is"]);
}

#[test]
fn packs_are_built_only_from_finished_runs_and_their_own_dataset() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    still_dataset(dir, [8, 8, 8]);
    make_stills(&dir.join("others"), 0, 6);
    make_stills(&dir.join("others"), 1, 6);
    run(dir, "dataset build others -o others-set").well();
    run(dir, "dataset split others-set").well();
    run(dir, &quick("stills", "run", "")).well();
    let build = |dataset: &str, out: &str| run(dir, &format!("pack build run --dataset {dataset} -o {out}"));
    build("others-set", "pack").refused(6, &["run/rgb", "another dataset than others-set"]);
    // With another split, the pack would be measured on training material.
    run(dir, "dataset split stills --seed 2").well();
    build("stills", "pack").refused(6, &["run/rgb", "another split", "--seed"]);
    run(dir, "dataset split stills").well();
    std::fs::write(dir.join("file"), "").unwrap();
    build("stills", "file/pack").refused(5, &["file/pack", "cannot write", "-o"]);
    run(dir, "pack build stills --dataset stills -o pack").refused(6, &["stills", "no finished training"]);
    assert!(!dir.join("pack").exists(), "a failed build left a pack");
    build("stills", "pack").well();
    run(dir, "pack inspect pack").well();
    let toml = dir.join("run/rgb/run.toml");
    let text = std::fs::read_to_string(&toml).unwrap();
    std::fs::write(&toml, &text[..text.len() / 2]).unwrap();
    build("stills", "other").refused(6, &["run/rgb/run.toml", "train again"]);
}

#[test]
fn a_rule_stops_a_run_that_learns_nothing_and_a_pack_can_be_built_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    still_dataset(dir, [8, 8, 8]);
    let options = "--unfreeze 1 --head-steps 0 --epochs 12 --learning-rate 1e-9 --mixup 0 --dropout 0";
    let train = |out: &str, rule: &str| {
        format!("train rgb stills -o {out} --init {} --still-views 0 {options} --on-rule {rule}", first_weights())
    };
    let epochs = |out: &str| log_lines(&dir.join(out).join("rgb"), "epoch").len();
    let check_finding = |out: &str, stopped: bool| {
        let findings = log_lines(&dir.join(out).join("rgb"), "finding");
        let standstill = findings.iter().find(|f| f["rule"] == "loss_not_decreasing");
        let standstill = standstill.unwrap_or_else(|| panic!("{findings:?}"));
        assert_eq!(standstill["stopped"], stopped);
        assert!(standstill["evidence"].as_str().unwrap().contains("has not fallen by 1 % in 5 epochs"), "{standstill}");
    };
    let printed = run(dir, &train("stopped", "stop")).well();
    assert!(printed.contains("stopped by a rule: the training loss has not fallen"), "{printed}");
    assert_eq!(epochs("stopped"), 6);
    check_finding("stopped", true);
    run(dir, "pack build stopped --dataset stills -o pack").well();
    run(dir, "pack inspect pack").well();
    let page = std::fs::read_to_string(dir.join("stopped/report.html")).unwrap();
    assert!(page.contains("has not fallen by 1 % in 5 epochs"));

    let printed = run(dir, &train("warned", "warn")).well();
    assert!(printed.contains("(finished"), "{printed}");
    assert_eq!(epochs("warned"), 12);
    check_finding("warned", false);
}

#[test]
fn unwritable_places_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    still_dataset(dir, [5, 5, 0]);
    std::fs::write(dir.join("file"), "").unwrap();
    run(dir, &quick("stills", "file/run", "")).refused(5, &["file/run/rgb", "cannot be created", "-o"]);
    run(dir, &quick("stills", "run", "--cache file/cache")).refused(5, &["file/cache", "--cache"]);
    full_disk(dir);
}

/// Trains into a file system that is too small, makes it larger, and resumes.
const SCRIPT: &str = r#"
mount -t tmpfs -o size=24m tmpfs full || exit 99
"$@" -o full
echo "first: $?"
ls full/rgb
mount -o remount,size=200m full || exit 99
"$@" -o full --resume || exit 1
cp full/rgb/best.safetensors resumed.safetensors
"#;

/// Tests a full disk in a mount namespace of its own, where that is permitted.
fn full_disk(dir: &Path) {
    std::fs::create_dir(dir.join("full")).unwrap();
    let train = quick("stills", "whole", "");
    run(dir, &train).well();
    let mut mount = Command::new("unshare");
    mount.args(["-m", "mount", "-t", "tmpfs", "tmpfs", "full"]).current_dir(dir);
    let allowed = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        skip(Lacks::Privileges, "no file system can be mounted here");
        return;
    }
    let arguments = train.replace("-o whole ", "");
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", SCRIPT, "sh", program::path()])
        .args(arguments.split_whitespace())
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .output()
        .expect("unshare ran before");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{error}");
    assert!(out.contains("first: 5"), "{out}{error}");
    let message = error.lines().find(|line| line.starts_with("touchline: ")).unwrap_or_else(|| panic!("{error}"));
    assert!(message.contains("full/rgb") && message.contains("cannot write"), "{message}");
    assert!(message.contains("No space left") && message.contains("free space"), "{message}");
    // The results of step 1 are complete, and no partial file remains.
    let kept: Vec<&str> = out.lines().skip_while(|line| !line.starts_with("first")).skip(1).collect();
    assert!(kept.contains(&CHECKPOINT) && kept.contains(&BEST), "{out}");
    assert!(!out.contains(".part"), "{out}");
    let read = |path: &Path| std::fs::read(path).unwrap();
    assert!(read(&dir.join("resumed.safetensors")) == read(&dir.join("whole/rgb").join(BEST)), "other weights");
}

/// The command line refuses invalid options before the program reads a file.
#[test]
fn options_out_of_range_are_refused() {
    for (option, value) in [
        ("--learning-rate", "0"),
        ("--learning-rate", "NaN"),
        ("--batch", "1"),
        ("--dropout", "1"),
        ("--label-smoothing", "-0.1"),
        ("--unfreeze", "some"),
        ("--arch", "vgg16"),
        ("--frames", "0"),
    ] {
        let mut command = touchline();
        command.args(["train", "rgb", "nowhere", "-o", "nowhere"]).arg(format!("{option}={value}"));
        let output = program::finish(&mut command);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{option} {value}: {error}");
        assert!(error.contains(option), "{error}");
    }
}
