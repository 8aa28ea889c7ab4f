//! `touchline pack export`: writes the networks of a pack for other programs.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::import::ModalityArg;
use touchline_compute::models::export::{self, ExportFormat};
use touchline_compute::models::pack::Pack;
use touchline_core::error::Result;

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Directory of the pack.
    #[arg(value_name = "PACK")]
    pack: PathBuf,
    /// Format of the files.
    #[arg(long, value_enum)]
    to: FormatArg,
    /// Directory of the files, one per network: rgb.onnx, flow.onnx …
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Write only this network [default: all networks of the pack].
    #[arg(long, value_enum)]
    modality: Option<ModalityArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    /// A state dict in f32, with the names of the library that the network comes from.
    Safetensors,
    /// ONNX with operators of version 17, in f32; the preprocessing is in its metadata.
    Onnx,
}

pub fn export(args: &ExportArgs) -> Result<()> {
    let format = match args.to {
        FormatArg::Safetensors => ExportFormat::Safetensors,
        FormatArg::Onnx => ExportFormat::Onnx,
    };
    let pack = Pack::open(&args.pack)?;
    for file in export::export(&pack, format, args.modality.map(ModalityArg::modality), &args.out)? {
        let (modality, path, size) = (file.modality, file.path.display(), file.bytes as f64 / 1e6);
        // Errors are ignored, because the reader may close the pipe early.
        let _ = writeln!(std::io::stdout(), "{modality}: {path}, {size:.1} MB");
    }
    Ok(())
}
