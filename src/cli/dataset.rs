//! `touchline dataset`: builds a dataset from labelled material, splits it, and prints its figures.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::progress::Bar;
use crate::cli::paths::shown;
use touchline_compute::features::params::{FlowParams, MelParams};
use touchline_compute::models::pack::Sampling;
use touchline_core::clip::SamplingPlan;
use touchline_core::clip::resample::SAMPLE_RATES;
use touchline_core::clock::SystemClock;
use touchline_core::error::{Error, Result};
use touchline_core::redact::print_error_line;
use touchline_learn::dataset::build;
use touchline_learn::dataset::build::{BuildConfig, BuildProgress, Summary};
use touchline_learn::dataset::{Dataset, Kind, split, stats};
use touchline_media::gst::{GstOpener, GstOptions};

#[derive(Debug, Args)]
pub struct DatasetArgs {
    #[command(subcommand)]
    command: DatasetCommand,
}

#[derive(Debug, Subcommand)]
enum DatasetCommand {
    /// Cut recordings and pictures into seconds. An interrupted build continues where it stopped.
    Build(BuildArgs),
    /// Split a dataset 80/10/10 into training, validation and test, by source.
    Split(SplitArgs),
    /// Count recordings, seconds, pictures, sounds and sources of every class. Prints a table and writes a chart.
    Stats(StatsArgs),
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// A folder with one folder per class; or a CSV file with the columns path and class, and optionally start, end, source,
    /// licence, weak, kind; or a folder with images/manifest.csv, frames/manifest.csv, clips/manifest.csv, sounds/manifest.csv.
    #[arg(value_name = "DIR|MANIFEST.csv", required = true)]
    inputs: Vec<PathBuf>,
    /// Directory of the dataset to write.
    #[arg(short, long, value_name = "DATASET")]
    out: PathBuf,
    /// Height that pictures are scaled down to, in lines.
    #[arg(long, default_value_t = Sampling::default().frame_height, value_parser = clap::value_parser!(u32).range(16..=2160))]
    frame_height: u32,
    /// Sample rate of the sound.
    #[arg(long, value_name = "HZ", default_value_t = MelParams::default().sample_rate, value_parser = sample_rate)]
    sample_rate: u32,
    /// Frames per second for the RGB model.
    #[arg(long, default_value_t = Sampling::default().rgb_frames, value_parser = clap::value_parser!(u32).range(0..=60))]
    rgb_frames: u32,
    /// Pairs of frames per second for the flow model.
    #[arg(long, default_value_t = Sampling::default().flow_pairs, value_parser = clap::value_parser!(u32).range(0..=60))]
    flow_pairs: u32,
    /// Distance between the two frames of a pair, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = FlowParams::default().gap_ms, value_parser = clap::value_parser!(u32).range(1..=1000))]
    flow_gap_ms: u32,
    /// Recordings and pictures that are processed at the same time [default: the number of cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Exit with code 7 when an input was skipped.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
struct SplitArgs {
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
    /// Random seed. The same seed gives the same split.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct StatsArgs {
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
    /// SVG file to write the chart to [default: DATASET/stats.svg].
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn sample_rate(text: &str) -> std::result::Result<u32, String> {
    let (low, high) = (SAMPLE_RATES.start(), SAMPLE_RATES.end());
    text.parse().ok().filter(|rate| SAMPLE_RATES.contains(rate)).ok_or_else(|| format!("must be {low} to {high}"))
}

pub fn dataset(args: DatasetArgs) -> Result<()> {
    match args.command {
        DatasetCommand::Build(args) => build(args),
        DatasetCommand::Split(args) => split(&args),
        DatasetCommand::Stats(args) => figures(&args),
    }
}

fn build(args: BuildArgs) -> Result<()> {
    let options = GstOptions { id: "dataset".into(), frame_height: args.frame_height, ..GstOptions::default() };
    let opener = GstOpener::new(options, Arc::new(SystemClock::new()))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = BuildConfig {
        inputs: args.inputs,
        out: args.out,
        frame_height: args.frame_height,
        sample_rate: args.sample_rate,
        plan: SamplingPlan {
            rgb_frames: args.rgb_frames,
            flow_pairs: args.flow_pairs,
            flow_gap_ns: u64::from(args.flow_gap_ms) * 1_000_000,
            signal_frames: 0,
        },
        jobs: args.jobs.map_or(cores, usize::from),
    };
    let mut bar: Option<Bar> = None;
    let built = build::build(&config, &opener, &mut |progress| match (progress, &mut bar) {
        (BuildProgress::Note(text), Some(bar)) => bar.line(&text),
        (BuildProgress::Note(text), None) => print_error_line(format_args!("{text}")),
        (BuildProgress::Done { done, .. }, Some(bar)) => bar.set(done as u64),
        (BuildProgress::Done { done, total }, none) => {
            none.insert(Bar::new("recordings and pictures", total as u64)).set(done as u64);
        }
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    let summary = built?;
    print_summary(&summary, &config);
    match summary.skipped.len() {
        failed if failed > 0 && args.strict => Err(Error::Partial { failed, total: summary.total }),
        _ => Ok(()),
    }
}

/// Prints a summary of the build.
fn print_summary(summary: &Summary, config: &BuildConfig) {
    // Errors are ignored, because the reader may close the pipe early.
    let out = |line: String| drop(writeln!(std::io::stdout(), "{line}"));
    let count = |kind| summary.items.get(&kind).copied().unwrap_or(0);
    out(format!(
        "{} clips and {} sounds of {} seconds, {} pictures, {} frames",
        count(Kind::Clip),
        count(Kind::Sound),
        summary.seconds,
        count(Kind::Picture),
        count(Kind::Frame)
    ));
    out(format!("{} of {} are from an earlier build", summary.reused, summary.total));
    if !summary.skipped.is_empty() {
        let list = config.out.join("skipped.csv");
        out(format!(
            "{} of {} were skipped; the reasons are in {}",
            summary.skipped.len(),
            summary.total,
            list.display()
        ));
    }
    out(format!(
        "near-duplicates: {} pairs of recordings, {} of pictures, {} of a picture and a recording; {} groups were merged; see {}",
        summary.recording_duplicates,
        summary.still_duplicates,
        summary.frame_duplicates,
        summary.groups_joined,
        config.out.join("duplicates.csv").display()
    ));
    out(format!("dataset written to {}", shown(&config.out)));
}

fn split(args: &SplitArgs) -> Result<()> {
    let mut dataset = Dataset::open(&args.dataset)?;
    let sides = split::divide(&mut dataset, args.seed)?;
    for warning in split::warnings(&dataset.items, &sides) {
        print_error_line(format_args!("{warning}"));
    }
    let mut out = std::io::stdout();
    for side in split::Side::ALL {
        let of = |kind| dataset.items.iter().zip(&sides).filter(|(i, s)| **s == side && i.kind == kind).count();
        let [clips, sounds, pictures, frames] = [Kind::Clip, Kind::Sound, Kind::Picture, Kind::Frame].map(of);
        let _ =
            writeln!(out, "{}: {clips} clips, {sounds} sounds, {pictures} pictures, {frames} frames", side.as_str());
    }
    Ok(())
}

fn figures(args: &StatsArgs) -> Result<()> {
    let dataset = Dataset::open(&args.dataset)?;
    let counts = stats::count(&dataset);
    let path = args.svg.clone().unwrap_or_else(|| args.dataset.join("stats.svg"));
    std::fs::write(&path, stats::chart(&counts)?)
        .map_err(|e| Error::output(path.display().to_string(), format!("cannot write: {e}"), "choose another --svg"))?;
    let _ = write!(std::io::stdout(), "{}", stats::table(&counts, stats::sources(&dataset)));
    let _ = writeln!(std::io::stdout(), "chart written to {}", shown(&path));
    Ok(())
}
