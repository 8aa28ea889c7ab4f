//! Reports: their contents, escaping, notes on missing data, and their look in headless Chromium.
//!
//! The tests leave the reports and their screenshots in the folder that `TOUCHLINE_SCREENSHOTS` names, or in the target
//! folder.

mod samples;

use std::path::{Path, PathBuf};

use crate::common::webdriver::Browser;
use serde_json::json;
use touchline_core::labels::Modality;
use touchline_learn::evaluate::result::{Evaluation, Level, Predictor};
use touchline_learn::record::{LogLine, Phase, RuleName, Start};
use touchline_learn::report;
use touchline_learn::report::RunLog;

fn folder() -> PathBuf {
    let folder = std::env::var_os("TOUCHLINE_SCREENSHOTS")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("reports"), PathBuf::from);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Checks that elements are closed in order, attributes are quoted and unique, and nothing is loaded from elsewhere.
fn check_html(html: &str) {
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
    for outside in ["http://", "https://", "//cdn", "@import", "url("] {
        assert!(!html.contains(outside), "refers to {outside}");
    }
    for bad in [">NaN", "\"NaN", "FACE", "xmlns", "inf\""] {
        assert!(!html.contains(bad), "{bad} in {}", &html[html.find(bad).unwrap().saturating_sub(200)..][..400]);
    }
    const VOID: [&str; 4] = ["meta", "br", "img", "!doctype"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>').expect("every tag is closed with `>`");
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        assert!(!tag.contains('<'), "an unescaped < before {tag:?}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed out of order");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let attributes: Vec<&str> =
            tag.split('"').step_by(2).filter_map(|part| part.trim().strip_suffix('=')).collect();
        let distinct: std::collections::BTreeSet<&&str> = attributes.iter().collect();
        assert_eq!(distinct.len(), attributes.len(), "duplicate attribute: {tag}");
        assert_ne!(name, "script");
        if name == "style" {
            rest = &rest[rest.find("</style>").unwrap() + 8..];
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new(), "elements are not closed");
}

/// The headings of charts and of notes on missing data.
fn headings(html: &str) -> Vec<String> {
    html.split("<h3>").skip(1).map(|part| part.split("</h3>").next().unwrap().to_owned()).collect()
}

fn charts(html: &str) -> usize {
    let drawn = html.matches("<svg class=\"chart\" role=\"img\"").count();
    let named = html.matches("<title>").count() - 1;
    assert_eq!((drawn, drawn), (named, html.matches("<desc>").count()), "every chart has a name and a description");
    drawn
}

fn write_log(path: &Path, lines: &[LogLine], tail: &str) {
    let text: String = lines.iter().map(|l| serde_json::to_string(l).unwrap() + "\n").collect();
    std::fs::write(path, text + tail).unwrap();
}

#[test]
fn an_evaluation_has_every_chart() {
    let html = report::evaluation(&samples::evaluation(&samples::classes())).unwrap();
    check_html(&html);
    let headings = headings(&html);
    for chart in [
        "Macro F1 with its interval",
        "By kind",
        "Events on simulated programmes",
        "Seconds, pictures and frames of each class",
        "F1 of each class by modality and fusion",
        "Second level: fusion by table",
        "The most frequent confusions",
        "Fusion by table: macro average and the 5 worst classes",
        "Macro average of each predictor",
        "Pictures (RGB): reliability",
        "Motion (flow): reliability",
        "Sound (audio): reliability",
        "Importance: fusion by table",
        "Importance: learned fusion",
        "Improvement of fusion over each modality",
        "Residuals: learned fusion",
    ] {
        assert!(headings.iter().any(|h| h == chart), "{chart} is not in {headings:?}");
    }
    // Intervals, labels, F1, 13 confusions, 2 ROC, 3 reliability, 2 importance, 5 residuals.
    assert_eq!(charts(&html), 1 + 1 + 1 + 13 + 2 + 3 + 2 + 5);
    assert!(html.contains("have no material on this side") && html.contains("come from a single source"));
    // The note is at the top and again at the end.
    let (first, last) = (html.find("could not be decoded").unwrap(), html.rfind("could not be decoded").unwrap());
    assert!(first < html.find("id=\"labels\"").unwrap() && last > html.find("id=\"wrong\"").unwrap());
    assert_eq!(html.matches("<img src=\"data:image/jpeg;base64,").count(), 7);
    assert!(html.len() < 3 << 20, "{} bytes", html.len());
    std::fs::write(folder().join("evaluation.html"), &html).unwrap();
}

#[test]
fn a_training_has_every_chart_for_each_modality() {
    let classes = samples::classes();
    let runs: Vec<RunLog> = Modality::ALL.map(|m| samples::training(m, &classes, 10, 30)).to_vec();
    let one = report::training(&runs[..1]).unwrap();
    check_html(&one);
    let headings = headings(&one);
    for chart in [
        "Label distribution",
        "Loss against step",
        "Loss of each epoch",
        "Accuracy against step",
        "Accuracy of each epoch",
        "Learning rate",
        "Speed, step 1 (head)",
        "Speed, step 2 (layers)",
        "Findings",
        "Processor",
        "Memory",
        "GPU",
        "GPU memory",
        "Disk",
        "Images a second",
        "Settings",
    ] {
        assert!(headings.iter().any(|h| h == chart), "{chart} is not in {headings:?}");
    }
    assert_eq!(charts(&one), 14);
    assert_eq!(one.matches("step 1 | step 2").count(), 5, "every curve over both steps marks their border");
    assert_eq!(one.matches(">\nkept</text>").count(), 6);
    assert!(one.contains("stopped by a rule: over-training") && one.contains("now 1.0121"));
    let all = report::training(&runs).unwrap();
    check_html(&all);
    assert_eq!(charts(&all), 42);
    assert!(all.contains("<a href=\"#audio-curves\">Sound (audio): loss and accuracy</a>"));
    std::fs::write(folder().join("training.html"), &one).unwrap();
    std::fs::write(folder().join("training-all.html"), &all).unwrap();
}

#[test]
fn names_and_paths_are_escaped() {
    let mut classes = samples::classes();
    classes[0] = "<b>bold</b>".into();
    classes[1] = "\"onload=alert(1) '&amp;".into();
    let mut e = samples::evaluation(&classes);
    e.pack = "<script>alert(1)</script>".into();
    e.notes.push("</section><b>".into());
    e.wrong[0].path = "a<b>.mp4".into();
    e.wrong[1].thumbnail = Some("data:image/jpeg;base64,AA\" onerror=\"alert(1)".into());
    e.wrong[4].thumbnail = Some("data:text/html,<b>".into());
    let mut run = samples::training(Modality::Rgb, &classes, 2, 2);
    if let LogLine::Finding(f) = run.lines.iter_mut().rev().find(|l| matches!(l, LogLine::Finding(_))).unwrap() {
        f.evidence = "<b>evidence</b>".into();
    }
    for html in [report::evaluation(&e).unwrap(), report::training(&[run]).unwrap()] {
        check_html(&html);
        assert!(html.contains("&lt;b&gt;") && !html.contains("<b>bold") && !html.contains("<b>evidence"));
        assert!(!html.contains("alert(1)<") && !html.contains("\"onload") && !html.contains(" onerror=\"alert"));
    }
}

#[test]
fn missing_data_is_named() {
    let classes = samples::classes();
    // An empty evaluation.
    let empty: Evaluation = serde_json::from_value(json!({
        "pack": "p", "weights_sha256": "", "dataset": "d", "side": "validation", "classes": [], "modalities": [],
        "label_distribution": [], "reports": [], "improvement": [], "calibration": [], "importance": [],
        "residuals": [], "wrong": [], "notes": []
    }))
    .unwrap();
    let html = report::evaluation(&empty).unwrap();
    check_html(&html);
    assert_eq!(charts(&html), 0);
    for text in ["No headline figures", "has no label counts", "No calibration was measured", "likely too high"] {
        assert!(html.contains(text), "{text}");
    }
    // No sound, no fusion.
    let mut silent = samples::evaluation(&classes);
    let is_sound = |p: Predictor| matches!(p, Predictor::Audio | Predictor::Table | Predictor::Learned);
    silent.reports.retain(|r| !is_sound(r.predictor));
    silent.calibration.pop();
    (silent.importance, silent.improvement) = (Vec::new(), Vec::new());
    let html = report::evaluation(&silent).unwrap();
    check_html(&html);
    for text in ["There is no figure for: sound.", "needs a fusion of at least two", "Second level: pictures"] {
        assert!(html.contains(text), "{text}");
    }
    assert!(headings(&html).contains(&"Sound (audio)".to_owned()));
    // One class: no confusions, no ROC.
    let html = report::evaluation(&samples::evaluation(&["tennis".to_owned()])).unwrap();
    check_html(&html);
    assert!(html.contains("No class has both positive and negative samples"));
    assert!(html.contains("No classes are confused."));
    // Figures that are NaN or infinite, and counts of the wrong shape.
    let mut odd = samples::evaluation(&classes);
    for r in &mut odd.reports {
        (r.macro_f1.value, r.log_loss, r.accuracy.low) = (f64::NAN, f64::INFINITY, Some(f64::NAN));
        r.confusion.truncate(3);
        r.per_class.truncate(2);
        r.roc.iter_mut().for_each(|c| c.points.clear());
    }
    odd.importance.iter_mut().for_each(|i| i.ablation = f64::NAN);
    odd.improvement[0].percent = f64::INFINITY;
    odd.residuals[0].edges.clear();
    check_html(&report::evaluation(&odd).unwrap());

    check_html(&report::training(&[]).unwrap());
    let mut run = samples::training(Modality::Audio, &classes, 3, 0);
    for line in &mut run.lines {
        match line {
            LogLine::Start(start) => start.validation.fill(0),
            LogLine::Epoch(e) => e.validation = None,
            LogLine::Step(s) if s.step == 40 => s.loss = f64::NAN,
            LogLine::Step(s) if s.step > 80 => s.loss = 1e30,
            LogLine::Resources(r) => (r.gpu_utilisation, r.gpu_memory_bytes) = (None, None),
            _ => {}
        }
    }
    run.lines.retain(|l| !matches!(l, LogLine::End(_) | LogLine::Finding(_)));
    let html = report::training(&[run]).unwrap();
    check_html(&html);
    for text in [
        "no validation samples",
        "There are no figures on validation",
        "No GPU was found",
        "No rule fired",
        "running, or killed",
        "Steps with a value that is NaN or infinite: 1.",
    ] {
        assert!(html.contains(text), "{text}");
    }
    let begun =
        RunLog { modality: Modality::Rgb, lines: samples::training(Modality::Rgb, &[], 0, 0).lines[..1].to_vec() };
    let html = report::training(&[begun, RunLog { modality: Modality::Flow, lines: Vec::new() }]).unwrap();
    check_html(&html);
    assert_eq!(charts(&html), 0);
    assert!(html.contains("no step and no epoch yet") && html.contains("no start line"));
}

#[test]
fn a_log_is_read_and_damage_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let mut run = samples::training(Modality::Flow, &samples::classes(), 2, 2);
    write_log(&path, &run.lines, "");
    let read = RunLog::read(&path).unwrap();
    assert_eq!((read.modality, read.lines.len()), (Modality::Flow, run.lines.len()));
    assert_eq!(read.lines.last(), run.lines.last());
    // A run that was killed while it wrote a multi-byte character.
    let end = "{\"kind\":\"finding\",\"evidence\":\"0.8 \u{2192}";
    write_log(&path, &run.lines, "");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(&end.as_bytes()[..end.len() - 1]);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(RunLog::read(&path).unwrap().lines.len(), run.lines.len());
    // Such a line in the middle of the file is an error that names the line.
    bytes.extend_from_slice(b"\n{\"kind\":\"end\"}\n");
    std::fs::write(&path, &bytes).unwrap();
    let error = RunLog::read(&path).unwrap_err().to_string();
    assert!(error.contains(&format!("line {}", run.lines.len() + 1)) && error.contains("log.jsonl"), "{error}");
    // A loss that is NaN.
    if let Some(LogLine::Step(s)) = run.lines.iter_mut().find(|l| matches!(l, LogLine::Step(_))) {
        s.loss = f64::NAN;
    }
    write_log(&path, &run.lines, "");
    let read = RunLog::read(&path).unwrap();
    assert!(read.lines.iter().any(|l| matches!(l, LogLine::Step(s) if s.loss.is_nan())));
    for (text, word) in [("", "start"), ("\n\n", "start"), ("{\"a\":1}", "line 1")] {
        std::fs::write(&path, text).unwrap();
        assert!(RunLog::read(&path).unwrap_err().to_string().contains(word), "{text:?}");
    }
    let error = RunLog::read(&folder.path().join("none.jsonl")).unwrap_err().to_string();
    assert!(error.contains("none.jsonl"), "{error}");
}

/// The run is killed in its third epoch and resumed from the checkpoint of its second.
#[test]
fn a_resumed_run_shows_each_epoch_once() {
    let whole = samples::training(Modality::Rgb, &samples::classes(), 4, 0);
    let Some(LogLine::Start(start)) = whole.lines.first() else { panic!("a log begins with its start line") };
    let killed = whole.lines.iter().position(|l| matches!(l, LogLine::Step(s) if s.step == 75)).unwrap();
    let again = whole.lines.iter().position(|l| matches!(l, LogLine::Step(s) if s.step == 61)).unwrap();
    let mut lines = whole.lines[..killed].to_vec();
    lines.push(LogLine::Start(Start { resumed_at: 60, ..start.clone() }));
    lines.extend(whole.lines[again..].iter().cloned());
    let html = report::training(&[RunLog { modality: Modality::Rgb, lines }]).unwrap();
    assert!(
        html.contains("resumed at step") && html.contains("120 steps, 4 epochs with validation"),
        "steps are counted twice"
    );
    assert_eq!(html.matches("of 4, step 1 (head)</th>").count(), 4);
    let over_training =
        whole.lines.iter().any(|l| matches!(l, LogLine::Finding(f) if f.rule == RuleName::OverTraining));
    assert!(over_training && html.matches("over-training</th>").count() == 1);
    assert!(matches!(whole.lines.last(), Some(LogLine::End(e)) if e.best_phase == Phase::Head));
}

#[test]
fn every_level_and_predictor_has_its_row() {
    let e = samples::evaluation(&samples::classes());
    let html = report::evaluation(&e).unwrap();
    for r in &e.reports {
        let level = match r.level {
            Level::Frame => "frame",
            Level::Second => "second",
            Level::Video => "video",
        };
        let figure = match r.macro_f1.ends() {
            Some((low, high)) => format!("{:.3} [{low:.3}, {high:.3}]", r.macro_f1.value),
            None => format!("{:.3} [n/a]", r.macro_f1.value),
        };
        assert!(html.contains(&figure), "{level} {figure}");
    }
}

#[cfg(feature = "gst")]
#[test]
fn the_command_writes_reports_of_runs_and_evaluations() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_touchline"));
        let output = command.arg("report").args(args).current_dir(folder.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let classes = samples::classes();
    for modality in [Modality::Rgb, Modality::Audio] {
        std::fs::create_dir_all(at("runs").join(modality.as_str())).unwrap();
        let log = at("runs").join(modality.as_str()).join("log.jsonl");
        write_log(&log, &samples::training(modality, &classes, 2, 2).lines, "{\"kind\":\"st");
    }
    assert_eq!(run(&["runs"]), (Some(0), String::new()));
    let html = std::fs::read_to_string(at("runs/report.html")).unwrap();
    assert!(html.contains("id=\"rgb\"") && html.contains("id=\"audio\"") && !html.contains("id=\"flow\""));
    assert_eq!(run(&["runs/rgb", "-o", "one.html"]), (Some(0), String::new()));
    assert!(!std::fs::read_to_string(at("one.html")).unwrap().contains("id=\"audio\""));
    let evaluation = serde_json::to_vec(&samples::evaluation(&classes)).unwrap();
    std::fs::write(at("evaluation.json"), evaluation).unwrap();
    assert_eq!(run(&["evaluation.json"]), (Some(0), String::new()));
    check_html(&std::fs::read_to_string(at("evaluation.html")).unwrap());

    std::fs::write(at("other.json"), "{\"pack\": 3}").unwrap();
    std::fs::create_dir(at("empty")).unwrap();
    for (args, code, message) in [
        (vec!["none.json"], 6, "none.json"),
        (vec!["other.json"], 6, "is not an evaluation"),
        (vec!["empty"], 6, "log.jsonl or evaluation.json"),
        (vec!["runs", "-o", "no/such/folder.html"], 5, "cannot write"),
        (vec![], 2, "RUN_DIR"),
    ] {
        let (status, text) = run(&args);
        assert!(status == Some(code) && text.contains(message), "{args:?}: {status:?} {text}");
    }
}

/// Takes a screenshot of the whole page.
fn screenshot(browser: &Browser, name: &str, width: u32, phone: bool, scheme: &str) -> Vec<u8> {
    browser.prefer(scheme);
    browser.resize(width, 900, phone);
    let height = browser.run("return document.documentElement.scrollHeight").as_u64().unwrap();
    browser.resize(width, u32::try_from(height).unwrap().min(if phone { 8000 } else { 16000 }), phone);
    browser.screenshot(&folder().join(format!("{name}.png")))
}

#[test]
fn the_reports_look_right_in_a_browser() {
    let Some(browser) = Browser::start() else { return };
    let classes = samples::classes();
    let evaluation = report::evaluation(&samples::evaluation(&classes)).unwrap();
    let training = report::training(&[samples::training(Modality::Rgb, &classes, 10, 30)]).unwrap();
    let pages = tempfile::tempdir().unwrap();
    for (name, html) in [("evaluation", evaluation), ("training", training)] {
        let path = pages.path().join(format!("{name}.html"));
        std::fs::write(&path, html).unwrap();
        browser.go(&format!("file://{}", path.display()));
        let light = screenshot(&browser, &format!("{name}-light"), 1280, false, "light");
        let dark = screenshot(&browser, &format!("{name}-dark"), 1280, false, "dark");
        let mean = |png: &[u8]| {
            let pixels = image::load_from_memory(png).unwrap().to_luma8();
            pixels.iter().map(|p| f64::from(*p)).sum::<f64>() / pixels.len() as f64
        };
        assert!(mean(&light) > 200.0 && mean(&dark) < 60.0, "light {} dark {}", mean(&light), mean(&dark));
        // The style sheet gives every stroke and area of the charts a colour.
        let uncoloured = browser.run(
            "return [...document.querySelectorAll('.chart polyline, .chart line, .chart rect, .chart circle, .chart text')]
               .filter((e) => { const s = getComputedStyle(e); return s.fill === 'none' && s.stroke === 'none'; }).length",
        );
        assert_eq!(uncoloured, 0, "elements without a colour");
        screenshot(&browser, &format!("{name}-phone"), 390, true, "light");
        let width = browser.run("return document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(width <= 390, "{name}: the page is {width} pixels wide, the phone 390");
        let small = browser.run(
            "return Math.min(...[...document.querySelectorAll('section > .grid .chart text')]
               .filter((e) => e.closest('figure.card:not(.wide)')).map((e) => e.getBoundingClientRect().height))",
        );
        assert!(small.as_f64().unwrap() >= 8.0, "text of {small} pixels is too small on a phone");
        browser.run("document.querySelectorAll('details').forEach((d) => d.open = true)");
        let width = browser.run("return document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(width <= 390, "{name} with open details: the page is {width} pixels wide, the phone 390");
        assert_eq!(browser.console(), Vec::<String>::new());
    }
}
