//! `touchline adapt`: adapts a pack to a channel.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::progress::Bar;
use crate::cli::paths::shown;
use touchline_compute::features::params::MelParams;
use touchline_compute::models::pack::Pack;
use touchline_core::clip::SamplingPlan;
use touchline_core::clock::SystemClock;
use touchline_core::error::{Error, Result};
use touchline_core::redact::print_error_line;
use touchline_learn::adapt::{self, AdaptConfig, AdaptReport};
use touchline_learn::dataset::Dataset;
use touchline_learn::dataset::build::{self, BuildConfig, BuildProgress};
use touchline_media::gst::{GstOpener, GstOptions};

#[derive(Debug, Args)]
#[command(after_long_help = "Example: two recordings per class are enough to begin with.
  channel/tennis/monday.mp4  channel/tennis/tuesday.mp4  channel/other/news.mp4 …
  touchline adapt --from channel --pack weights/compact -o channel-pack
  touchline run rtsp://camera.example/live --shadow channel-pack     compare it beside the running pack
  touchline run rtsp://camera.example/live --pack channel-pack       use it")]
pub struct AdaptArgs {
    /// Labelled material of the channel: a folder with one folder per class, or a CSV with the columns path and class (and optionally
    /// start, end, source). Repeat the option for more.
    #[arg(long, value_name = "DIR|MANIFEST.csv", required = true)]
    from: Vec<PathBuf>,
    /// Model pack to adapt.
    #[arg(long, value_name = "PACK")]
    pack: PathBuf,
    /// Directory of the adapted pack.
    #[arg(short, long, value_name = "PACK")]
    out: PathBuf,
    /// Name of the adapted pack [default: the name of the pack].
    #[arg(long)]
    name: Option<String>,
    /// A class of the material that the pack does not know and that is added. Repeat the option for more.
    #[arg(long = "new-class", value_name = "CLASS")]
    new_classes: Vec<String>,
    /// Write the pack even if cross-validation finds it worse.
    #[arg(long)]
    force: bool,
    /// JSON file to write the figures to.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory for the cut material and its features [default: OUT.work, deleted at the end].
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

pub fn adapt(args: AdaptArgs) -> Result<()> {
    if same(&args.pack, &args.out) {
        return Err(Error::Usage(
            "--pack and -o name the same directory; choose another -o, so that both packs can be compared".into(),
        ));
    }
    let pack = Pack::open(&args.pack)?;
    let own_work = args.work.is_none();
    let work = args.work.clone().unwrap_or_else(|| args.out.with_extension("work"));
    let dataset = cut(&args.from, &work.join("dataset"), &pack)?;
    let config = AdaptConfig {
        pack: args.pack,
        out: args.out.clone(),
        name: args.name,
        new_classes: args.new_classes,
        cache: work.join("cache"),
        force: args.force,
    };
    let mut bar: Option<Bar> = None;
    let report = adapt::adapt(&dataset, &config, &mut |done, of| {
        bar.get_or_insert_with(|| Bar::new("recordings and stills", of as u64)).set(done as u64);
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    let report = report?;
    print(&report, &args.out);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::Internal(e.to_string()))?;
        std::fs::write(path, text)
            .map_err(|e| Error::output(path.display().to_string(), e.to_string(), "choose another --json"))?;
    }
    if own_work {
        // The pack is written; only disk space remains to be freed.
        let _ = std::fs::remove_dir_all(&work);
    }
    Ok(())
}

fn same(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Cuts the material into seconds as the pack samples streams.
fn cut(from: &[PathBuf], out: &Path, pack: &Pack) -> Result<Dataset> {
    let options = GstOptions { id: "adapt".into(), frame_height: pack.frame_height, ..GstOptions::default() };
    let opener = GstOpener::new(options, Arc::new(SystemClock::new()))?;
    let config = BuildConfig {
        inputs: from.to_vec(),
        out: out.to_path_buf(),
        frame_height: pack.frame_height,
        sample_rate: pack.audio.as_ref().map_or_else(|| MelParams::default().sample_rate, |a| a.input.mel.sample_rate),
        // Motion does not learn here, and neither do the signal detectors.
        plan: SamplingPlan { flow_pairs: 0, signal_frames: 0, ..pack.plan.clone() },
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut bar: Option<Bar> = None;
    let summary = build::build(&config, &opener, &mut |progress| match progress {
        BuildProgress::Note(text) => print_error_line(format_args!("{text}")),
        BuildProgress::Done { done, total } => {
            bar.get_or_insert_with(|| Bar::new("recordings and stills cut", total as u64)).set(done as u64);
        }
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    for (path, cause) in &summary?.skipped {
        print_error_line(format_args!("skipped {}: {cause}", shown(path)));
    }
    Dataset::open(out)
}

fn print(report: &AdaptReport, out: &Path) {
    // A reader that closes the pipe needs no more lines.
    let line = |text: String| drop(writeln!(std::io::stdout(), "{text}"));
    let width = report.classes.iter().map(|c| c.class.len()).max().unwrap_or(0).max("pack's own material".len());
    line(format!("{:width$}  before  after  seconds  sources  held out by", "share of held-out samples right"));
    for class in &report.classes {
        let before = if class.is_new { "new".to_owned() } else { format!("{:.2}", class.right.before) };
        line(format!(
            "{:width$}  {before:>6}  {:>5.2}  {:>7}  {:>7}  {}",
            class.class,
            class.right.after,
            class.seconds,
            class.sources,
            class.held_out_by.name()
        ));
    }
    line(format!("{:width$}  {:>6.2}  {:>5.2}", "all classes", report.channel.before, report.channel.after));
    if let Some(own) = &report.replay {
        line(format!("{:width$}  {:>6.2}  {:>5.2}", "pack's own material", own.before, own.after));
    }
    line(format!("written to {}; compare it first: touchline run URI --shadow {}", shown(out), shown(out)));
}
