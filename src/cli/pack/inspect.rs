//! `touchline pack inspect`: verifies a pack, runs it once, and prints its contents.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use candle_core::Device;
use clap::Args;
use serde::Serialize;

use crate::cli::paths::shown;
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::{Int8Cost, MANIFEST, Pack, Unknown};
use touchline_compute::models::{Architecture, read_weights};
use touchline_core::decision::PackStamp;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;
use touchline_serve::config;
use touchline_serve::control::pack_view::PackView;

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Directory of the pack [default: weights/compact].
    #[arg(value_name = "DIR")]
    pack: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Properties of a weights file that are not in the manifest.
#[derive(Serialize)]
struct WeightsView {
    modality: Modality,
    file: String,
    bytes: u64,
    /// Trained values, without the statistics of the batch norms.
    parameters: u64,
    architecture: Architecture,
    #[serde(skip)]
    classes: usize,
    #[serde(skip)]
    temperature: f32,
    /// Whether the pack has the ranges that int8 needs.
    int8: bool,
    /// Loss of accuracy of int8 on validation, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    int8_validation: Option<Int8Cost>,
}

#[derive(Serialize)]
struct InspectView<'a> {
    pack: &'a PackStamp,
    path: String,
    classes: &'a [String],
    weights: &'a [WeightsView],
    /// Always true, because a pack that fails verification is an error.
    verified: bool,
    #[serde(flatten)]
    details: PackView<'a>,
}

pub fn inspect(args: &InspectArgs) -> Result<()> {
    let dir = config::find_pack(args.pack.as_deref())?;
    let engine = Engine::load(Pack::open(&dir)?)?;
    let pack = engine.pack();
    let weights = Modality::ALL.into_iter().filter_map(|m| look(pack, m).transpose()).collect::<Result<Vec<_>>>()?;
    let text = if args.json {
        let view = InspectView {
            pack: engine.models().stamp(),
            path: dir.display().to_string(),
            classes: pack.classes.names(),
            weights: &weights,
            verified: true,
            details: PackView::new(pack),
        };
        serde_json::to_string_pretty(&view)
            .map_err(|e| Error::Internal(format!("cannot write the pack as JSON: {e}")))?
    } else {
        text(pack, engine.models().stamp(), &weights)
    };
    // Errors are ignored, because the reader may close the pipe early.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(())
}

/// Returns the properties of the weights of a modality; `None` if the pack has no model for it.
fn look(pack: &Pack, modality: Modality) -> Result<Option<WeightsView>> {
    let Some(model) = pack.model(modality) else { return Ok(None) };
    let file =
        read_weights(&model.weights, &Device::Cpu).map_err(|e| Error::pack(&pack.dir, e.to_string(), e.advice()))?;
    let bytes = std::fs::metadata(&model.weights).map_or(0, |m| m.len());
    let trained = |name: &str| !name.ends_with("running_mean") && !name.ends_with("running_var");
    let parameters = file.tensors.iter().filter(|(name, _)| trained(name)).map(|(_, t)| t.elem_count() as u64).sum();
    Ok(Some(WeightsView {
        modality,
        file: model.weights.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        bytes,
        parameters,
        architecture: model.architecture,
        classes: model.outputs.len(),
        temperature: model.temperature,
        int8: model.int8.is_some(),
        int8_validation: model.int8.as_ref().and_then(|ranges| ranges.validation),
    }))
}

fn text(pack: &Pack, stamp: &PackStamp, weights: &[WeightsView]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{} in {}: hashes verified, models loaded and run", pack.name, shown(&pack.dir));
    let _ = writeln!(out, "weights  {}\n{MANIFEST:<8} {}", stamp.weights_sha256, stamp.manifest_sha256);
    let _ = writeln!(out, "\n{} classes: {}", pack.classes.len(), pack.classes.names().join(" "));
    for (class, reason) in &pack.left_out {
        let _ = writeln!(out, "left out: {class} ({reason})");
    }
    let _ = writeln!(
        out,
        "\n{:<9} {:<13} {:>7} {:>11} {:>9}  {:<26} {:<11} int8",
        "modality", "architecture", "classes", "parameters", "file", "input", "temperature"
    );
    for w in weights {
        let _ = writeln!(
            out,
            "{:<9} {:<13} {:>7} {:>9.2} M {:>6.1} MB  {:<26} {:<11.3} {}",
            w.modality.as_str(),
            w.architecture.name(),
            w.classes,
            w.parameters as f64 / 1e6,
            w.bytes as f64 / 1e6,
            input(pack, w.modality),
            w.temperature,
            match w.int8_validation {
                _ if !w.int8 => "no",
                Some(cost) if !cost.is_small() => "loss too large",
                _ => "calibrated",
            }
        );
    }
    let _ = writeln!(
        out,
        "sampling: pictures of {} lines; per second {} frames for rgb and {} pairs for flow",
        pack.frame_height, pack.plan.rgb_frames, pack.plan.flow_pairs
    );
    match pack.unknown {
        Some(Unknown { below, precision, coverage }) => {
            let (precision, coverage) = (100.0 * precision, 100.0 * coverage);
            let _ = writeln!(
                out,
                "unknown: below probability {below:.2}; on validation {coverage:.0} % are answered, {precision:.0} % of the answers right"
            );
        }
        None => out.push_str("unknown: never; every second gets a label\n"),
    }
    table(&mut out, pack);
    card(&mut out, pack);
    out
}

fn input(pack: &Pack, modality: Modality) -> String {
    match modality {
        Modality::Rgb => pack.rgb.as_ref().map(|p| format!("{}x{} {:?}", p.input.width, p.input.height, p.input.fit)),
        Modality::Flow => pack
            .flow
            .as_ref()
            .map(|p| format!("{}x{} {:?}, {} ms apart", p.input.width, p.input.height, p.input.fit, p.input.gap_ms)),
        Modality::Audio => pack.audio.as_ref().map(|p| {
            let mel = &p.input.mel;
            format!("{}x{}, {} mel, {} Hz", p.input.width, p.input.height, mel.bands, mel.sample_rate)
        }),
    }
    .map_or_else(String::new, |text| text.to_lowercase())
}

fn table(out: &mut String, pack: &Pack) {
    let order: Vec<&str> = pack.fusion.order().iter().map(|m| m.as_str()).collect();
    let _ = writeln!(out, "\nfusion, best first: {}", order.join(", "));
    if let Some(reason) = &pack.refit {
        let _ = writeln!(out, "THE TABLE MUST BE FITTED AGAIN: {reason}");
    }
    let _ =
        writeln!(out, "{:<18} {:<8} {:>6} {:>6} {:>6}  F1 on validation", "class", "decides", "rgb", "flow", "audio");
    let f1 = |value: Option<f32>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    for (name, entry) in pack.classes.names().iter().zip(pack.fusion.entries()) {
        let (rgb, flow, audio) = (f1(entry.f1.rgb), f1(entry.f1.flow), f1(entry.f1.audio));
        let _ = writeln!(out, "{name:<18} {:<8} {rgb:>6} {flow:>6} {audio:>6}", entry.modality.as_str());
    }
}

fn card(out: &mut String, pack: &Pack) {
    let card = &pack.card;
    for (heading, text) in
        [("trained on", &card.trained_on), ("method", &card.method), ("split", &card.split), ("limits", &card.limits)]
    {
        let _ = writeln!(out, "\n{heading}: {}", if text.is_empty() { "not stated" } else { text });
    }
    let _ = writeln!(out, "\nmeasured on held-out material:");
    if card.measured.is_empty() {
        let _ = writeln!(out, "  no figures");
    }
    for (name, value) in &card.measured {
        let _ = writeln!(out, "  {name:<44} {value}");
    }
}
