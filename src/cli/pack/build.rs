//! `touchline pack build`: builds a pack from training runs.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::paths::shown;
use crate::cli::progress::Bar;
use touchline_core::error::Result;
use touchline_learn::dataset::Dataset;
use touchline_learn::pack::{PackConfig, build as build_pack};

#[derive(Debug, Args)]
#[command(
    after_long_help = "Temperatures and the class-to-modality table are fitted on the dataset's validation side. The test \
side is used once, for the figures on the card.

Examples:
  touchline pack build RUN --dataset DATASET -o weights/mine --name mine
  touchline pack build RUN --keep weights/compact --dataset DATASET -o weights/mine
  touchline pack build RUN --cv FOLDS --dataset DATASET -o weights/mine

A running program switches to a new pack on `POST /api/v1/pack`, on SIGHUP, or with --watch-pack."
)]
pub struct BuildArgs {
    /// Runs of `touchline train`. If two have the same modality, the later one is used.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Pack to take the models from for modalities that no run has. Temperatures, table and ranges are fitted again.
    #[arg(long, value_name = "PACK")]
    keep: Option<PathBuf>,
    /// Cross-validation with the same options (`touchline train --folds`). Temperatures and the threshold for unknown are fitted
    /// on its held-out sources, about ten times the number in validation.
    #[arg(long, value_name = "RUN")]
    cv: Option<PathBuf>,
    /// Dataset that the runs were trained on.
    #[arg(long, value_name = "DATASET")]
    dataset: PathBuf,
    /// Directory of the pack to write.
    #[arg(short, long, value_name = "PACK")]
    out: PathBuf,
    /// Name of the pack.
    #[arg(long, default_value = "custom")]
    name: String,
    /// Description and origin of the training material, for the pack's card.
    #[arg(long, value_name = "TEXT", default_value = "origin not stated")]
    material: String,
    /// Directory of the cache of scores [default: DATASET/cache].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

pub fn build(args: BuildArgs) -> Result<()> {
    let dataset = Dataset::open(&args.dataset)?;
    let cache = args.cache.unwrap_or_else(|| args.dataset.join("cache"));
    let config = PackConfig {
        runs: args.runs,
        keep: args.keep,
        cv: args.cv,
        out: args.out.clone(),
        name: args.name,
        material: args.material,
        cache,
    };
    let mut bar: Option<(&'static str, Bar)> = None;
    let manifest = build_pack(&dataset, &config, &mut |side, done, of| {
        if bar.as_ref().is_none_or(|(s, _)| *s != side)
            && let Some((_, old)) = bar.replace((side, Bar::new("recordings and pictures scored", of as u64)))
        {
            old.finish();
        }
        if let Some((_, bar)) = &mut bar {
            bar.set(done as u64);
        }
    })?;
    if let Some((_, bar)) = bar {
        bar.finish();
    }
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{} classes: {}", manifest.classes.len(), manifest.classes.join(" "));
    for (class, reason) in &manifest.left_out {
        let _ = writeln!(out, "left out: {class} ({reason})");
    }
    for (name, value) in &manifest.card.measured {
        let _ = writeln!(out, "{name} = {value}");
    }
    let _ = writeln!(out, "pack written to {}", shown(&args.out));
    Ok(())
}
