//! `touchline pack calibrate`: ranges for int8.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::progress::Progress;
use crate::error::Result;
use crate::learn::calibrate::{calibrate as observe, put};
use crate::learn::dataset::Dataset;
use crate::models::pack::{Manifest, Pack};

#[derive(Debug, Args)]
#[command(
    after_long_help = "int8 stores every value of a network in a byte, so it has to know between what limits each lies. They are \
measured on the dataset's training side and written into the pack, beside its weights, which stay as they are. \
`touchline pack build` does the same at its end.

Example:
  touchline pack calibrate weights/mine DATASET
  touchline evaluate weights/mine DATASET --precision int8"
)]
pub struct CalibrateArgs {
    /// Directory of the pack, to which ranges are added.
    #[arg(value_name = "PACK")]
    pack: PathBuf,
    /// A dataset that is split; best the one that the pack was trained on.
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
    /// Recordings to look at of each kind (pictures, clips, sounds), a second of each.
    #[arg(long, value_name = "N", default_value_t = crate::learn::pack::CALIBRATED_ON, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    recordings: u32,
}

pub fn calibrate(args: &CalibrateArgs) -> Result<()> {
    let pack = Pack::open(&args.pack)?;
    let dataset = Dataset::open(&args.dataset)?;
    let mut bar: Option<Progress> = None;
    let (ranges, without) = observe(&pack, &dataset, args.recordings as usize, &mut |done, of| {
        bar.get_or_insert_with(|| Progress::new("recordings and pictures looked at", of as u64)).set(done as u64);
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    let mut manifest = Manifest::read(&args.pack)?;
    put(&mut manifest, &ranges, &args.pack)?;
    manifest.write(&args.pack)?;
    let mut out = std::io::stdout();
    for modality in without {
        let _ = writeln!(out, "{modality}: the dataset holds nothing for it; int8 will refuse the pack");
    }
    let _ = writeln!(out, "ranges written to {}", args.pack.display());
    Ok(())
}
