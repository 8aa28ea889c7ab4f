//! `touchline pack calibrate`: measures the ranges for int8.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::paths::shown;
use crate::cli::progress::with_bar;
use touchline_compute::models::pack::{Manifest, Pack};
use touchline_core::error::Result;
use touchline_core::labels::Modality;
use touchline_learn::calibrate::{calibrate as measure_ranges, measure_cost, write_ranges};
use touchline_learn::dataset::Dataset;

#[derive(Debug, Args)]
#[command(
    after_long_help = "int8 stores every value of a network in one byte, so the range of the values must be known. The ranges are \
measured on the dataset's training side and written into the pack; its weights are not changed. The loss of accuracy is then \
measured on the validation side. A model that loses more than half a point of macro F1 runs in bf16 (or f32, where the \
processor is not faster in bf16) when int8 is requested. `touchline pack build` calibrates too, at its end.

Example:
  touchline pack calibrate weights/mine DATASET
  touchline evaluate weights/mine DATASET --precision int8"
)]
pub struct CalibrateArgs {
    /// Directory of the pack to calibrate.
    #[arg(value_name = "PACK")]
    pack: PathBuf,
    /// Directory of a dataset that was split, preferably the one that the pack was trained on.
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
    /// Number of recordings of each kind (pictures, clips, sounds) to measure, one second of each.
    #[arg(long, value_name = "N", default_value_t = touchline_learn::pack::CALIBRATED_ON, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    recordings: u32,
    /// Directory of the cache of scores [default: DATASET/cache].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

pub fn calibrate(args: &CalibrateArgs) -> Result<()> {
    let pack = Pack::open(&args.pack)?;
    let dataset = Dataset::open(&args.dataset)?;
    let (ranges, without) = with_bar("recordings and pictures read", |progress| {
        measure_ranges(&pack, &dataset, args.recordings as usize, progress)
    })?;
    let mut manifest = Manifest::read(&args.pack)?;
    write_ranges(&mut manifest, &ranges, &args.pack)?;
    // Written immediately, so that the pack is complete even if the rest fails.
    manifest.write(&args.pack)?;
    let cache = args.cache.clone().unwrap_or_else(|| args.dataset.join("cache"));
    with_bar("recordings and pictures scored", |progress| {
        measure_cost(&mut manifest, &args.pack, &dataset, &cache, progress)
    })?;
    manifest.write(&args.pack)?;
    let mut out = std::io::stdout();
    let pack = Pack::open(&args.pack)?;
    for (modality, model) in Modality::ALL.into_iter().filter_map(|m| Some((m, pack.model(m)?))) {
        if let Some(cost) = model.int8.as_ref().and_then(|ranges| ranges.validation) {
            let kept = if cost.is_small() { "int8 is used" } else { "the loss is too large: bf16 or f32 is used" };
            let (f32, int8) = (cost.f32, cost.int8);
            let _ = writeln!(out, "{modality}: macro F1 on validation {int8:.3} in int8, {f32:.3} in f32; {kept}");
        }
    }
    for modality in without {
        let is_encoder = pack.model(modality).is_some_and(|model| model.architecture.is_encoder());
        let reason = if is_encoder { "encoders compute in f32" } else { "the dataset has no samples for it" };
        let _ = writeln!(out, "{modality}: not calibrated, because {reason}; --precision int8 will reject the pack");
    }
    let _ = writeln!(out, "ranges written to {}", shown(&args.pack));
    Ok(())
}
