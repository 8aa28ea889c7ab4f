//! `touchline pack import`: imports a network into a pack.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::cli::paths::shown;
use touchline_compute::infer::Engine;
use touchline_compute::models::Architecture;
use touchline_compute::models::foundation::{Foundation, Prompts};
use touchline_compute::models::import::{Import, Imported};
use touchline_compute::models::pack::{Pack, parse_toml};
use touchline_compute::models::timm::Timm;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// State dict as safetensors. A .pth file is a pickle and is not opened; the error says how to convert it.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Library whose naming the tensors follow.
    #[arg(long, value_enum)]
    from: ImportFormat,
    /// Network architecture. For torchvision.
    #[arg(long, value_enum, required_if_eq("from", "torchvision"))]
    arch: Option<Arch>,
    /// Modality of the network's input. For torchvision; all others are for pictures.
    #[arg(long, value_enum, required_if_eq("from", "torchvision"))]
    modality: Option<ModalityArg>,
    /// Directory of the pack to write.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Classes in the order of the network's outputs: a file with one per line, or a list with commas.
    #[arg(long, value_name = "FILE|LIST")]
    classes: Option<String>,
    /// Import the network into a copy of this pack [default: a new pack with this network only].
    #[arg(long, value_name = "DIR")]
    onto: Option<PathBuf>,
    /// Prompts per class, for clip, siglip and mobileclip: TOML with `class = ["a picture of {class}", …]`, or CSV with the columns class and prompt
    /// [default: built-in prompts].
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// The tokenizer.json of the model, for clip, siglip and mobileclip [default: the one beside FILE].
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Give the encoder an empty classifier for --classes, which `touchline adapt` then fits. For dinov2, mobileclip and the vision
    /// transformers of timm.
    #[arg(long)]
    new_classifier: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ImportFormat {
    Torchvision,
    /// CLIP of transformers; the classifier is made of text prompts.
    Clip,
    /// SigLIP of transformers; the classifier is made of text prompts.
    Siglip,
    /// MobileCLIP-S1 and -S2, MobileCLIP2-S0 and -S2 to -S4 of OpenCLIP; the classifier is made of text prompts, or empty.
    #[value(name = "mobileclip")]
    MobileClip,
    /// DINOv2 of transformers, with the classifier in its file or an empty one.
    #[value(name = "dinov2")]
    DinoV2,
    /// MobileNetV2, ResNet50, EfficientNet-Lite and plain vision transformers of timm, with the classifier in the file.
    Timm,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Arch {
    #[value(name = "mobilenet_v2")]
    MobileNetV2,
    #[value(name = "resnet50")]
    ResNet50,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ModalityArg {
    Rgb,
    Flow,
    Audio,
}

impl ModalityArg {
    pub(super) const fn modality(self) -> Modality {
        match self {
            ModalityArg::Rgb => Modality::Rgb,
            ModalityArg::Flow => Modality::Flow,
            ModalityArg::Audio => Modality::Audio,
        }
    }
}

pub fn import(args: ImportArgs) -> Result<()> {
    let (file, out) = (args.file.clone(), args.out.clone());
    let imported = match args.from {
        ImportFormat::Torchvision => torchvision(args)?,
        ImportFormat::Clip => encoder(args, Architecture::ClipVit)?,
        ImportFormat::Siglip => encoder(args, Architecture::SiglipVit)?,
        ImportFormat::MobileClip => encoder(args, Architecture::MobileClip)?,
        ImportFormat::DinoV2 => encoder(args, Architecture::DinoV2)?,
        ImportFormat::Timm => timm(args)?,
    };
    // The pack is loaded as by the detector and run once, to make sure that it works.
    Engine::load(Pack::open(&out)?)?;
    // Errors are ignored, because the reader may close the pipe early.
    let print = |text: String| drop(writeln!(std::io::stdout(), "{text}"));
    print(format!(
        "{}: {} tensors imported, {} batch norm counters skipped, {} unknown",
        file.display(),
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
    print(format!("pack written to {}", shown(&out)));
    Ok(())
}

fn torchvision(args: ImportArgs) -> Result<Imported> {
    without_prompts(&args)?;
    if args.new_classifier {
        return Err(Error::Usage("--new-classifier is for encoders; leave it out".into()));
    }
    let (Some(arch), Some(modality)) = (args.arch, args.modality) else {
        return Err(Error::Usage("--from torchvision needs --arch and --modality".into()));
    };
    let import = Import {
        file: args.file,
        architecture: match arch {
            Arch::MobileNetV2 => Architecture::MobileNetV2,
            Arch::ResNet50 => Architecture::ResNet50,
        },
        modality: modality.modality(),
        out: args.out,
        classes: args.classes.as_deref().map(classes).transpose()?,
        onto: args.onto,
    };
    import.run()
}

fn encoder(args: ImportArgs, architecture: Architecture) -> Result<Imported> {
    let classes = classes_of_new_pack(&args)?;
    let import = Foundation {
        architecture,
        file: args.file,
        tokenizer: args.tokenizer,
        prompts: args.prompts.as_deref().map(prompts).transpose()?.unwrap_or_default(),
        classes,
        new_classifier: args.new_classifier,
        out: args.out,
    };
    import.run()
}

fn timm(args: ImportArgs) -> Result<Imported> {
    without_prompts(&args)?;
    let classes = classes_of_new_pack(&args)?;
    Timm { file: args.file, classes, new_classifier: args.new_classifier, out: args.out }.run()
}

fn without_prompts(args: &ImportArgs) -> Result<()> {
    if args.prompts.is_some() || args.tokenizer.is_some() {
        let cause = "--prompts and --tokenizer are for --from clip, siglip and mobileclip";
        return Err(Error::Usage(format!("{cause}; leave them out")));
    }
    Ok(())
}

/// The classes of a network that becomes the picture model of a new pack.
fn classes_of_new_pack(args: &ImportArgs) -> Result<Vec<String>> {
    if args.arch.is_some() || args.modality.is_some() || args.onto.is_some() {
        let cause = "--arch, --modality and --onto are for --from torchvision";
        return Err(Error::Usage(format!("{cause}; this network becomes the picture model of a new pack")));
    }
    classes(args.classes.as_deref().ok_or_else(|| Error::Usage("name the classes with --classes".into()))?)
}

/// Reads prompts from TOML or, by the file's ending, CSV.
fn prompts(path: &Path) -> Result<Prompts> {
    let advice = "give TOML with `class = [\"a prompt\"]`, or CSV with the columns class and prompt";
    let failed = |cause: String| Error::data(path, cause, advice);
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let mut prompts = Prompts::new();
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
        for row in csv::Reader::from_reader(text.as_bytes()).deserialize() {
            let PromptRow { class, prompt } = row.map_err(|e| failed(e.to_string()))?;
            prompts.entry(class.trim().to_owned()).or_default().push(prompt.trim().to_owned());
        }
    } else {
        prompts = parse_toml(&text).map_err(failed)?;
    }
    match prompts
        .iter()
        .find(|(_, prompts)| prompts.is_empty() || prompts.iter().any(|prompt| prompt.trim().is_empty()))
    {
        Some((class, _)) => Err(failed(format!("class {class} has no prompt, or an empty one"))),
        None => Ok(prompts),
    }
}

/// A line of a CSV file of prompts.
#[derive(Debug, serde::Deserialize)]
struct PromptRow {
    class: String,
    prompt: String,
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
