//! The training pipeline for Kubeflow, run by KFP's local runner: every step is a process, and a running program swaps to the pack.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::api::wait_until_ready;
use crate::common::live::Live;
use crate::common::program::{self, touchline};
use crate::common::training::{CLASSES, first_weights, make_stills, run};

const TOKEN: &str = "a-token-of-the-tests-of-the-pipeline";

/// Calls the pipeline's file in `dir`.
fn pipeline(python: &Path, dir: &Path, arguments: &[&str]) -> (bool, String) {
    let program = PathBuf::from(touchline().get_program());
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubeflow/pipeline.py");
    // KFP leaves temporary files behind.
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(python);
    command.arg(file).args(arguments).current_dir(dir).env("PATH", path).env("TMPDIR", temporary.path());
    let output = command.output().expect("Python");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// The files named `name` below `dir`.
fn files(dir: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, name));
        } else if path.file_name().is_some_and(|file| file == name) {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_better_pack_is_promoted_and_an_equal_one_is_reported() {
    let Some(python) = program::python("kfp.kubernetes") else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    (0..3).for_each(|class| make_stills(&dir.join("stills"), class, 30));

    // A pack that has learnt the labels in the wrong order.
    let wrong = dir.join("wrong");
    for (class, label) in [1, 2, 0].into_iter().enumerate() {
        make_stills(&dir.join("made"), class, 30);
        std::fs::create_dir_all(&wrong).unwrap();
        std::fs::rename(dir.join("made").join(CLASSES[class]), wrong.join(CLASSES[label])).unwrap();
    }
    run(dir, "dataset build wrong -o set").well();
    run(dir, "dataset split set").well();
    let options = format!("--init {} --unfreeze 0 --still-views 0", first_weights());
    run(dir, &format!("train rgb set -o bad {options}")).well();
    run(dir, "pack build bad --dataset set -o packs/first --name first").well();

    std::fs::write(dir.join("token"), TOKEN).unwrap();
    let start = ["--pack", "packs/first", "--admin-token-file", "token"].map(str::to_owned);
    let mut command = touchline();
    command.current_dir(dir);
    let live = Live::start_by(command, dir, "127.0.0.1", &start);
    wait_until_ready(&live.address);
    let running = || {
        let mut answer = ureq::get(format!("http://{}/api/v1/pack", live.address))
            .header("authorization", format!("Bearer {TOKEN}"))
            .call()
            .unwrap();
        let body: Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
        body["pack"]["name"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
    };
    assert_eq!(running(), "first");

    let go = |name: &str, pack: &Path, more: Value| {
        let mut arguments = json!({
            "material": dir.join("stills"),
            "running": pack,
            "packs": dir.join("packs"),
            "name": name,
            "modalities": ["rgb"],
            "train_options": options.split(' ').collect::<Vec<_>>(),
            "server": format!("http://{}", live.address),
            "token_file": dir.join("token"),
        });
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(dir.join("arguments.json"), arguments.to_string()).unwrap();
        pipeline(&python, dir, &["run", "--local", name, "--arguments", "arguments.json"])
    };
    let (is_well, log) = go("second", &dir.join("packs/first"), json!({}));
    assert!(is_well, "{log}");
    assert_eq!(running(), "second", "{log}");
    assert_eq!(files(&dir.join("second"), "summary"), Vec::<PathBuf>::new(), "nothing is reported");
    let metrics = files(&dir.join("second"), "executor_output.json");
    assert!(metrics.iter().any(|path| std::fs::read_to_string(path).unwrap().contains("validation macro_f1")));
    let promoted: Vec<PathBuf> = std::fs::read_dir(dir.join("packs")).unwrap().map(|e| e.unwrap().path()).collect();
    let [_, second] = &promoted[..] else { panic!("{promoted:?}") };
    let second = if second.ends_with("first") { &promoted[0] } else { second };

    let (is_well, log) = go("third", second, json!({}));
    assert!(is_well, "{log}");
    assert_eq!(running(), "second", "an equal pack is not promoted: {log}");
    let [summary] = &files(&dir.join("third"), "summary")[..] else { panic!("{log}") };
    let summary = std::fs::read_to_string(summary).unwrap();
    assert!(summary.contains("not promoted: undecided") && summary.contains("| picture |"), "{summary}");

    // A step that fails ends the pipeline with the program's message.
    let (is_well, log) = go("fourth", second, json!({ "material": dir.join("nowhere") }));
    assert!(!is_well && log.contains("touchline dataset build ended with code"), "{log}");
    assert_eq!(running(), "second");
    assert_eq!(live.stop(), 0);
}

#[test]
fn the_pipeline_compiles_for_a_cluster() {
    let Some(python) = program::python("kfp.kubernetes") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (is_well, log) = pipeline(&python, dir.path(), &["compile", "--volume", "recordings"]);
    assert!(is_well, "{log}");
    let text = std::fs::read_to_string(dir.path().join("pipeline.yaml")).unwrap();
    assert_eq!(text.matches("        image: touchline-kubeflow:").count(), 10, "a container for each step");
    assert!(text.contains("mountPath: /material") && text.contains("train flow"), "{text}");
}
