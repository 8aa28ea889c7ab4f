//! Exports the networks of a pack: as state dicts for PyTorch, or as ONNX.
//!
//! Both files state how the input is made and what the outputs mean. The values are those that the program computes with in `f32`.

mod graph;
mod proto;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

pub(super) use graph::{OnnxBuilder, OnnxValue};
pub(super) use proto::Attribute;

use self::proto::{Model, OnnxGraph};
use super::import::COUNTER;
use super::pack::{ModelSpec, Pack};
use super::{
    Architecture, Layers, LoadError, Parts, Tensors, encoder, inverted_residual, mobile_clip, read_weights_verified,
    resnet50,
};
use crate::features::params::{Filter, Fit};
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

/// Version of ONNX's file format that goes with [`OPERATORS`].
const FORMAT: i64 = 8;

/// Version of ONNX's operators: the first with a layer norm.
const OPERATORS: i64 = 17;

/// Key of the properties in the header of a safetensors file.
const HEADER_KEY: &str = "touchline";

/// A message of protobuf, and so an ONNX file, must be smaller than this; bytes.
const LARGEST: u64 = 2 << 30;

/// The kind of file to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A state dict in `f32` with the names of the library that the architecture comes from.
    Safetensors,
    /// A network with the input `input` (batch, 3, height, width) and the outputs `logits` and `scores`, both (batch, classes).
    Onnx,
}

impl ExportFormat {
    const fn extension(self) -> &'static str {
        match self {
            ExportFormat::Safetensors => "safetensors",
            ExportFormat::Onnx => "onnx",
        }
    }
}

/// A file that was written.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The modality of the network.
    pub modality: Modality,
    /// The file.
    pub path: PathBuf,
    /// Its length, bytes.
    pub bytes: u64,
}

/// A network to write.
struct NetworkToExport<'a> {
    modality: Modality,
    model: &'a ModelSpec,
    /// Width and height of its input, pixels.
    size: (usize, usize),
}

/// Writes each network of a pack, or that of one modality, into the folder `out`: `rgb.onnx`, `flow.onnx` and so on.
///
/// # Errors
/// [`Error::Usage`] when the pack has no model for the modality; [`Error::Pack`] when its weights cannot be used; [`Error::Output`] when a
/// file exists already or cannot be written.
pub fn export(pack: &Pack, format: ExportFormat, modality: Option<Modality>, out: &Path) -> Result<Vec<Exported>> {
    let wanted: Vec<NetworkToExport<'_>> = Modality::ALL
        .into_iter()
        .filter(|m| modality.is_none_or(|wanted| wanted == *m))
        .filter_map(|m| Some(NetworkToExport { modality: m, model: pack.model(m)?, size: pack.input_size(m)? }))
        .collect();
    if wanted.is_empty() {
        let what = modality.map_or("", |m| m.as_str());
        return Err(Error::Usage(format!(
            "the pack {} has no {what} model; `touchline pack inspect` lists its models",
            pack.name
        )));
    }
    let path = |modality: Modality| out.join(format!("{modality}.{}", format.extension()));
    if let Some(path) = wanted.iter().map(|w| path(w.modality)).find(|path| path.exists()) {
        return Err(Error::output(path.display().to_string(), "it exists already", "choose another -o"));
    }
    let cannot = |path: &Path, e: std::io::Error| {
        Error::output(path.display().to_string(), e.to_string(), "check the folder, its permissions and the free space")
    };
    std::fs::create_dir_all(out).map_err(|e| cannot(out, e))?;
    let mut exported = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let NetworkToExport { modality, model, .. } = wanted;
        let broken = |e: LoadError| Error::pack(&pack.dir, format!("{modality} model: {e}"), e.advice());
        let tensors = read_weights_verified(&model.weights, &model.sha256, &Device::Cpu).map_err(broken)?;
        let properties = properties(pack, &wanted)?;
        let bytes = match format {
            ExportFormat::Safetensors => state_dict(tensors, properties)?,
            ExportFormat::Onnx => {
                let network = graph(&wanted, &tensors).map_err(broken)?;
                onnx(network, properties).map_err(|cause| Error::pack(&pack.dir, cause, "export to safetensors"))?
            }
        };
        let (path, part) = (path(modality), out.join(format!("{modality}.{}.part", format.extension())));
        std::fs::write(&part, &bytes).and_then(|()| std::fs::rename(&part, &path)).map_err(|e| cannot(&path, e))?;
        exported.push(Exported { modality, path, bytes: bytes.len() as u64 });
    }
    Ok(exported)
}

/// The tensors in `f32` under their own names. PyTorch's batch norms have a batch counter, which packs leave out and
/// `load_state_dict` asks for.
fn state_dict(tensors: Tensors, properties: BTreeMap<&'static str, String>) -> Result<Vec<u8>> {
    let mut state: BTreeMap<String, Tensor> = BTreeMap::new();
    for (name, tensor) in tensors {
        if name.starts_with(encoder::SETTINGS) {
            continue;
        }
        if let Some(norm) = name.strip_suffix("running_var") {
            state.insert(format!("{norm}{COUNTER}"), Tensor::new(0i64, &Device::Cpu)?);
        }
        state.insert(name, tensor.to_dtype(DType::F32)?);
    }
    let header = serde_json::to_string(&properties).map_err(|e| Error::Internal(e.to_string()))?;
    // One key, because the library writes several in a random order.
    let header = HashMap::from([(HEADER_KEY.to_owned(), header)]);
    safetensors::serialize(state, Some(header)).map_err(|e| Error::Internal(format!("safetensors: {e}")))
}

fn onnx(graph: OnnxGraph, properties: BTreeMap<&'static str, String>) -> std::result::Result<Vec<u8>, String> {
    let properties = properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let bytes = Model { format: FORMAT, operators: OPERATORS, graph, properties }.encoded();
    if bytes.len() as u64 >= LARGEST {
        let have = bytes.len();
        return Err(format!("its network would be an ONNX file of {have} bytes, and the format allows {LARGEST}"));
    }
    Ok(bytes)
}

/// The network of a modality as ONNX's operators.
fn graph(wanted: &NetworkToExport<'_>, tensors: &Tensors) -> std::result::Result<OnnxGraph, LoadError> {
    let NetworkToExport { model, size: (width, height), .. } = *wanted;
    let (architecture, classes) = (model.architecture, Some(model.outputs.len()));
    let mut builder = OnnxBuilder::default();
    let logits = match (architecture.inverted_residuals(), architecture) {
        (Some(plan), _) => layers(inverted_residual::parts(architecture, &plan, tensors, classes)?, &mut builder),
        (None, Architecture::ResNet50) => layers(resnet50::parts(tensors, classes)?, &mut builder),
        (None, Architecture::ResNet50V2) => layers(resnet50::parts_v2(tensors, classes)?, &mut builder),
        (None, Architecture::MobileClip) => {
            let parts = mobile_clip::parts(tensors, classes)?;
            let x = builder.input();
            parts.body.onnx(&mut builder, x).and_then(|x| classified(&mut builder, x, parts.classifier))
        }
        (None, _) => {
            let parts = encoder::parts(architecture, tensors, classes)?;
            let x = builder.input();
            parts.body.onnx(&mut builder, x).and_then(|x| classified(&mut builder, x, parts.classifier))
        }
    };
    let logits = logits.map_err(|cause| LoadError::Build { architecture, cause })?;
    Ok(builder.finish(logits, [3, height, width], model.outputs.len(), model.temperature, architecture.name()))
}

fn layers<L: Layers>(parts: Parts<L>, builder: &mut OnnxBuilder) -> candle_core::Result<OnnxValue> {
    let mut x = builder.input();
    if let Some(norm) = &parts.input_norm {
        x = norm.fuse(builder, x)?;
    }
    let x = parts.body.fuse(builder, x)?;
    let x = builder.average(x);
    classified(builder, x, parts.classifier)
}

fn classified(
    builder: &mut OnnxBuilder,
    x: OnnxValue,
    classifier: Option<(Tensor, Tensor)>,
) -> candle_core::Result<OnnxValue> {
    match classifier {
        Some((weight, bias)) => builder.linear(x, &weight, Some(&bias)),
        None => candle_core::bail!("the network has no classifier"),
    }
}

/// What a user of the file must know, by name.
fn properties(pack: &Pack, wanted: &NetworkToExport<'_>) -> Result<BTreeMap<&'static str, String>> {
    let NetworkToExport { modality, model, size } = *wanted;
    let json = |e: serde_json::Error| Error::Internal(format!("a property cannot be written as JSON: {e}"));
    let classes: Vec<&str> = model.outputs.iter().map(|id| pack.classes.name(*id)).collect();
    let input = match modality {
        Modality::Rgb => pack.rgb.as_ref().map(|part| serde_json::to_string(&part.input)),
        Modality::Flow => pack.flow.as_ref().map(|part| serde_json::to_string(&part.input)),
        Modality::Audio => pack.audio.as_ref().map(|part| serde_json::to_string(&part.input)),
    };
    Ok(BTreeMap::from([
        ("pack", pack.name.clone()),
        ("pack_sha256", pack.manifest_sha256.clone()),
        ("weights_sha256", model.sha256.clone()),
        ("architecture", model.architecture.name().to_owned()),
        ("modality", modality.as_str().to_owned()),
        ("classes", serde_json::to_string(&classes).map_err(json)?),
        ("temperature", model.temperature.to_string()),
        ("input", input.transpose().map_err(json)?.unwrap_or_default()),
        ("preprocessing", preprocessing(pack, modality, size)),
        (
            "postprocessing",
            "scores = softmax(logits / temperature), one per class in the order of `classes`; the scores of a second are the mean of those \
             of its inputs"
                .to_owned(),
        ),
    ]))
}

/// How the input is made, for people. The parameters are those of the property `input`.
fn preprocessing(pack: &Pack, modality: Modality, (width, height): (usize, usize)) -> String {
    let fitted = |fit: Fit| match fit {
        Fit::Pad => "scaled to fit inside, centred, the rest filled with the mean",
        Fit::Crop => "scaled to cover, cropped at the centre",
        Fit::Stretch => "scaled on both axes independently",
    };
    let layout = format!("float32 (batch, 3, {height}, {width})");
    match modality {
        Modality::Rgb => pack.rgb.as_ref().map(|part| {
            let input = &part.input;
            let filter = match input.filter {
                Filter::Bilinear => "bilinear",
                Filter::Bicubic => "bicubic",
            };
            format!(
                "{layout}: pictures in R, G, B, {} with Pillow's {filter} filter; each channel is (value / 255 - mean) / std, with mean {:?} \
                 and std {:?}",
                fitted(input.fit),
                input.mean,
                input.std
            )
        }),
        Modality::Flow => pack.flow.as_ref().map(|part| {
            let input = &part.input;
            format!(
                "{layout}: dx, dy and magnitude of Farneback's optical flow between two grey pictures {} ms apart, {}; clipped to {} pixels \
                 and divided by it",
                input.gap_ms,
                fitted(input.fit),
                input.clip_px
            )
        }),
        Modality::Audio => pack.audio.as_ref().map(|part| {
            let input = &part.input;
            format!(
                "{layout}: the log-mel image (bands from low to high by time) of one second of mono sound at {} Hz, in decibels; (dB - mean) / \
                 std with mean {} and std {}, resized and repeated on 3 channels",
                input.mel.sample_rate, input.mean_db, input.std_db
            )
        }),
    }
    .unwrap_or_default()
}
