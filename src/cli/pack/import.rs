//! `touchline pack import`: imports a state dict into a pack.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use touchline_compute::infer::Engine;
use touchline_compute::models::Architecture;
use touchline_compute::models::import::Import;
use touchline_compute::models::pack::Pack;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// State dict as safetensors. A .pth file is a pickle and is not opened; the error says how to convert it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Library whose naming the tensors follow.
    #[arg(long, value_enum)]
    from: Origin,
    /// Network architecture.
    #[arg(long, value_enum)]
    arch: Arch,
    /// Modality of the network's input.
    #[arg(long, value_enum)]
    modality: ModalityArg,
    /// Directory of the pack to write.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Classes in the order of the network's outputs: a file with one per line, or a list with commas.
    #[arg(long, value_name = "FILE|LIST")]
    classes: Option<String>,
    /// Import the network into a copy of this pack [default: a new pack with this network only].
    #[arg(long, value_name = "DIR")]
    onto: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Origin {
    Torchvision,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Arch {
    #[value(name = "mobilenet_v2")]
    MobileNetV2,
    #[value(name = "resnet50")]
    ResNet50,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModalityArg {
    Rgb,
    Flow,
    Audio,
}

pub fn import(args: ImportArgs) -> Result<()> {
    let Origin::Torchvision = args.from;
    let import = Import {
        file: args.file,
        architecture: match args.arch {
            Arch::MobileNetV2 => Architecture::MobileNetV2,
            Arch::ResNet50 => Architecture::ResNet50,
        },
        modality: match args.modality {
            ModalityArg::Rgb => Modality::Rgb,
            ModalityArg::Flow => Modality::Flow,
            ModalityArg::Audio => Modality::Audio,
        },
        out: args.out,
        classes: args.classes.as_deref().map(classes).transpose()?,
        onto: args.onto,
    };
    let imported = import.run()?;
    // The pack is loaded as by the detector and run once, to make sure that it works.
    Engine::load(Pack::open(&import.out)?)?;
    // Errors are ignored, because the reader may close the pipe early.
    let print = |text: String| drop(writeln!(std::io::stdout(), "{text}"));
    print(format!(
        "{}: {} tensors imported, {} batch norm counters skipped, {} unknown",
        import.file.display(),
        imported.taken,
        imported.counters,
        imported.unknown.len()
    ));
    for name in &imported.unknown {
        print(format!("unknown tensor: {name}"));
    }
    if let Some(reason) = &imported.manifest.fusion.refit {
        print(format!("the class-to-modality table must be fitted again: {reason}"));
    }
    print(format!("pack written to {}", import.out.display()));
    Ok(())
}

/// Reads names from a file with one per line, or from a list with commas.
fn classes(given: &str) -> Result<Vec<String>> {
    let path = Path::new(given);
    let names = |text: &str, at: &[char]| -> Vec<String> {
        text.split(at).map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    if !path.is_file() {
        return Ok(names(given, &[',']));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::Usage(format!("--classes {given}: {e}; use a text file with one class per line")))?;
    Ok(names(&text, &['\n']))
}
