//! Killed trainings. A resumed training repeats no finished work, and its result is the same to the byte.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::program::touchline;
use crate::common::training::{first_weights, log_lines, run, still_dataset};
use candle_core::Device;
use safetensors::SafeTensors;
use serde_json::Value;
use touchline_compute::models::read_weights;
use touchline_learn::fit::{BEST, CHECKPOINT};

/// Starts a training in `dir` and kills it as soon as `condition` is true. Panics if the training ends before that.
fn kill_when(dir: &Path, arguments: &str, condition: impl Fn() -> bool) {
    let mut command = touchline();
    command.current_dir(dir).args(arguments.split_whitespace());
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let until = Instant::now() + Duration::from_secs(300);
    while !condition() {
        assert!(child.try_wait().expect("a child").is_none(), "{arguments}: the training ended before the kill");
        assert!(Instant::now() < until, "{arguments}: the condition is still false");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("SIGKILL");
    let status = child.wait().expect("a child");
    assert!(status.code().is_none(), "the training ended by itself: {status}");
}

/// The files of computed rows in a cache, with their inodes. A rewritten file has another inode.
fn chunks(cache: &Path) -> Vec<(PathBuf, u64)> {
    let Ok(files) = std::fs::read_dir(cache) else { return Vec::new() };
    let paths = files.map(|f| f.expect("an entry").path());
    let mut chunks: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .map(|path| (path.clone(), path.metadata().map_or(0, |m| m.ino())))
        .collect();
    chunks.sort();
    chunks
}

/// The number of optimiser steps of step 2 in the log.
fn tune_steps(run: &Path) -> usize {
    let text = std::fs::read_to_string(run.join("log.jsonl")).unwrap_or_default();
    text.lines().filter(|line| line.contains("\"kind\":\"step\"") && line.contains("\"phase\":\"tune\"")).count()
}

fn files(run: &Path) -> Vec<Vec<u8>> {
    [BEST, CHECKPOINT, "log.jsonl", "run.toml"].map(|name| std::fs::read(run.join(name)).expect(name)).into()
}

/// Killed while it computes rows: the complete chunk is reused, the other one is computed.
#[test]
fn rows_that_are_complete_are_not_computed_again_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // More on the sides of training and validation than the 256 of a chunk.
    still_dataset(dir, [108, 108, 108]);
    let train =
        format!("train rgb stills -o run --init {} --unfreeze 0 --head-steps 20 --still-views 0", first_weights());
    let cache = dir.join("stills/cache");
    kill_when(dir, &train, || !chunks(&cache).is_empty());
    let first = chunks(&cache);
    assert_eq!(first.len(), 1);
    run(dir, &train).well();
    let after = chunks(&cache);
    assert_eq!(after.len(), 2);
    assert!(after.contains(&first[0]), "the complete chunk was computed again");
}

#[test]
fn a_killed_and_resumed_training_gives_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    still_dataset(dir, [40, 40, 40]);
    let train = |out: &str| {
        format!(
            "train rgb stills -o {out} --init {} --unfreeze 1 --head-steps 20 --epochs 3 --batch 4 --still-views 0 \
             --fresh-views --cutmix 1 --average-weights 0.9 --checkpoint 7 --save-tensors 50",
            first_weights()
        )
    };
    let cache = dir.join("stills/cache");
    run(dir, &train("whole")).well();

    // Killed in the middle of step 2, between two checkpoints.
    let (whole, cut) = (dir.join("whole/rgb"), dir.join("cut/rgb"));
    kill_when(dir, &train("cut"), || tune_steps(&cut) >= 30);
    assert!(cut.join(CHECKPOINT).is_file() && log_lines(&cut, "end").is_empty() && !cut.join("run.toml").exists());
    assert!(tune_steps(&cut) < tune_steps(&whole));
    run(dir, "pack build cut --dataset stills -o pack").refused(6, &["cut", "no finished training", "touchline train"]);
    run(dir, &train("cut")).refused(6, &["cut/rgb", "already contains a training run", "--resume"]);
    for other in ["--seed 2", "--learning-rate 1e-4", "--mixup 0", "--unfreeze 2", "--epochs 6"] {
        let repeated = other.split(' ').next().unwrap_or_default();
        // The command line refuses a repeated option, so the original one is removed.
        let original = train("cut");
        let original: Vec<&str> = original.split_whitespace().collect();
        let at = original.iter().position(|word| *word == repeated);
        let kept: Vec<&str> = original
            .iter()
            .enumerate()
            .filter(|(i, _)| at.is_none_or(|at| *i != at && *i != at + 1))
            .map(|(_, w)| *w)
            .collect();
        let changed = format!("{} {other} --resume", kept.join(" "));
        run(dir, &changed).refused(6, &["cut/rgb", "other settings", "same options"]);
    }
    let resumed = run(dir, &format!("{} --resume", train("cut")));
    assert!(resumed.error.contains("continues after step"), "{}", resumed.error);
    resumed.well();
    let resumed_at: Vec<Value> = {
        let text = std::fs::read_to_string(cut.join("log.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == "start").map(|line| line["resumed_at"].clone()).collect()
    };
    assert!(resumed_at.len() == 2 && resumed_at[0] == 0 && resumed_at[1].as_u64() > Some(30), "{resumed_at:?}");
    assert!(std::fs::read(whole.join(BEST)).unwrap() == std::fs::read(cut.join(BEST)).unwrap(), "other weights");
    for kind in ["step", "epoch", "finding", "end"] {
        assert_eq!(log_lines(&whole, kind), log_lines(&cut, kind));
    }

    // A finished run is not changed.
    let before = files(&cut);
    let again = run(dir, &format!("{} --resume", train("cut"))).well();
    assert!(again.contains("finished"), "{again}");
    assert!(before == files(&cut), "a finished run was changed");

    let left = std::fs::read_dir(&cache).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(left.count(), 0, "the views of ended trainings are removed");

    // The same seed gives the same run and rows with an empty cache and another number of threads.
    let mut command = touchline();
    command.current_dir(dir).args(train("again").split_whitespace()).args(["--cache", "elsewhere"]);
    let output = crate::common::program::finish(command.env("RAYON_NUM_THREADS", "1"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again = dir.join("again/rgb");
    assert!(std::fs::read(whole.join(BEST)).unwrap() == std::fs::read(again.join(BEST)).unwrap(), "other weights");
}

/// A run that is killed after its last epoch, before it records the end, must not learn for another epoch.
#[test]
fn an_early_stop_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    still_dataset(dir, [12, 12, 12]);
    // This rate soon ruins the blocks that learn: the epochs stop improving.
    let train = format!(
        "train rgb stills -o run --init {} --unfreeze 1 --epochs 9 --still-views 0 --patience 2 --label-smoothing 0 \
         --head-penalty 1e-6 --learning-rate 0.3",
        first_weights()
    );
    let stopped = run(dir, &train);
    assert!(stopped.error.contains("no improvement on validation for 2 epochs"), "{}", stopped.error);
    stopped.well();
    let folder = dir.join("run/rgb");
    let epochs = log_lines(&folder, "epoch");
    let last_best = epochs.iter().rposition(|epoch| epoch["best"] == true).unwrap();
    assert_eq!(epochs.len(), last_best + 3, "two epochs without an improvement: {epochs:?}");
    assert!(epochs.len() < 10, "it ends early");

    let path = folder.join(CHECKPOINT);
    let bytes = std::fs::read(&path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut metadata: HashMap<String, String> = metadata.metadata().clone().unwrap();
    let (_, text) = metadata.iter_mut().next().unwrap();
    let mut state: Value = serde_json::from_str(text).unwrap();
    assert!(state["ended"].is_string(), "{state}");
    state["ended"] = Value::Null;
    // Drop the end line from the log.
    let log = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
    state["log_bytes"] = log.trim_end().rfind('\n').map(|at| at + 1).into();
    *text = state.to_string();
    let tensors = read_weights(&path, &Device::Cpu).unwrap().tensors;
    safetensors::serialize_to_file(&tensors, Some(metadata), &path).unwrap();

    run(dir, &format!("{train} --resume")).well();
    assert_eq!(log_lines(&folder, "epoch"), epochs);
    assert_eq!(log_lines(&folder, "end").len(), 1);
}
