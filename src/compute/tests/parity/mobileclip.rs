//! MobileCLIP against OpenCLIP (`tests/reference/models/mobileclip.py`): features, text embeddings, and packs from the file to the engine.

use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::Deserialize;
use touchline_compute::features::params::{Filter, Fit};
use touchline_compute::models::foundation::Foundation;
use touchline_compute::models::pack::Pack;
use touchline_compute::models::{Architecture, Network, Tensors, fold_mobile_clip, read_weights};

use crate::encoders::{CLASSES, TOLERANCE, assert_near, assert_pack, pictures, values, words, write_tokenizer};
use crate::reference::{json, parameter};

const SIDE: usize = 64;

/// The largest permitted difference of a logit of a pack, whose weights are rounded to f16. The same rounding moves the features of PyTorch's own
/// network by 4e-3.
const ROUNDED: f64 = 6e-3;

#[derive(Deserialize)]
struct Reference {
    prompts: Vec<Vec<Vec<usize>>>,
    small: Vec<Model>,
    real: Tower,
}

/// A tiny model of two towers.
#[derive(Deserialize)]
struct Model {
    #[serde(flatten)]
    tower: Tower,
    no_causal_mask: bool,
    scale: f64,
    /// An embedding per class.
    rows: Vec<f64>,
    logits: Vec<f64>,
}

#[derive(Deserialize)]
struct Tower {
    tensors: Vec<(String, Vec<usize>)>,
    features: Vec<f64>,
}

impl Tower {
    fn state(&self) -> Tensors {
        self.tensors.iter().map(|(name, shape)| (name.clone(), parameter(name, shape))).collect()
    }
}

fn reference() -> Reference {
    json("models/mobileclip.json")
}

/// The tower for inference, without rounding.
fn network(state: Tensors) -> Network {
    let tower = state.into_iter().filter_map(|(name, tensor)| match name.split_once("trunk.") {
        Some((_, own)) => Some((own.to_owned(), tensor)),
        None => (!name.starts_with("text.") && name != "logit_scale").then_some((name, tensor)),
    });
    let folded = fold_mobile_clip(tower.collect()).expect("a whole tower");
    assert!(folded.rest.is_empty(), "{:?}", folded.rest.keys());
    assert!(folded.tensors.keys().all(|name| !name.contains("conv_kxk") && !name.contains("running_")));
    Network::load(Architecture::MobileClip, &folded.tensors, None).expect("all tensors are present")
}

/// Writes a model as its publisher does, and returns its import.
fn published(model: &Model, dir: &Path) -> Foundation {
    let file = dir.join("open_clip_model.safetensors");
    candle_core::safetensors::save(&model.tower.state(), &file).expect("weights are written");
    let config = serde_json::json!({
        "model_cfg": {
            "embed_dim": 48,
            "vision_cfg": { "timm_model_name": "fastvit_mci0", "timm_pool": "avg", "image_size": SIDE },
            "text_cfg": { "context_length": 8, "heads": 4, "no_causal_mask": model.no_causal_mask },
        },
        "preprocess_cfg": { "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "interpolation": "bilinear" },
    });
    std::fs::write(dir.join("open_clip_config.json"), config.to_string()).expect("a file");
    write_tokenizer(dir);
    Foundation {
        architecture: Architecture::MobileClip,
        file,
        tokenizer: None,
        prompts: Default::default(),
        classes: CLASSES.map(str::to_owned).to_vec(),
        new_classifier: false,
        out: dir.join("pack"),
    }
}

fn imported(reference: &Reference, model: &Model, dir: &Path) -> PathBuf {
    let mut import = published(model, dir);
    for (class, prompts) in CLASSES.iter().zip(&reference.prompts) {
        import.prompts.insert((*class).to_owned(), prompts.iter().map(|ids| words(ids)).collect());
    }
    let imported = import.run().expect("an import");
    assert!(imported.unknown.is_empty(), "{:?}", imported.unknown);
    import.out
}

/// A pack as of MobileCLIP-S0 to -S2.
pub(crate) fn imported_mobileclip(dir: &Path) -> PathBuf {
    let reference = reference();
    imported(&reference, &reference.small[0], dir)
}

/// A pack as of MobileCLIP2-S3 and -S4.
pub(crate) fn imported_mobileclip2(dir: &Path) -> PathBuf {
    let reference = reference();
    imported(&reference, &reference.small[1], dir)
}

#[test]
fn mobileclip_matches_open_clip_from_file_to_pack() {
    let reference = reference();
    for model in &reference.small {
        let network = network(model.tower.state());
        let (both, second) = (pictures(SIDE), pictures(SIDE).narrow(0, 1, 1).expect("a picture"));
        let features = network.features(&both).expect("a forward pass");
        assert_near(&values(&features), &model.tower.features, TOLERANCE);
        let alone = network.features(&second.contiguous().expect("a tensor")).expect("a forward pass");
        assert_eq!(values(&alone), values(&features.narrow(0, 1, 1).expect("a row")), "bit for bit");

        let dir = tempfile::tempdir().expect("a folder");
        let pack = imported(&reference, model, dir.path());
        assert_pack(&pack, SIDE, &model.logits, ROUNDED);
        let part = Pack::open(&pack).expect("a pack").rgb.expect("a picture model");
        assert_eq!((part.input.filter, part.input.fit), (Filter::Bilinear, Fit::Crop));
        assert_eq!((part.input.mean, part.input.std), ([0.0; 3], [1.0; 3]));
        let tensors = read_weights(&part.model.weights, &Device::Cpu).expect("weights").tensors;
        let rows = &tensors["classifier.weight"].to_dtype(candle_core::DType::F32).expect("rows");
        for (have, want) in values(rows).iter().zip(&model.rows) {
            // The pack has them in f16.
            let (have, want) = (f64::from(*have), want * model.scale);
            assert!((have - want).abs() < TOLERANCE + want.abs() / 2048.0, "{have} and {want}");
        }
        assert_eq!(rows.elem_count(), model.rows.len());
    }
}

#[test]
fn the_tower_of_mobileclip2_s0_matches_open_clip() {
    let tower = reference().real;
    let features = network(tower.state()).features(&pictures(256)).expect("a forward pass");
    assert_near(&values(&features), &tower.features, TOLERANCE);
}

#[test]
fn an_empty_classifier_of_mobileclip_needs_no_text_tower() {
    let reference = reference();
    let dir = tempfile::tempdir().expect("a folder");
    let import = Foundation { new_classifier: true, ..published(&reference.small[0], dir.path()) };
    std::fs::remove_file(dir.path().join("tokenizer.json")).expect("a file");
    let mut tower = reference.small[0].tower.state();
    tower.retain(|name, _| name.starts_with("visual."));
    candle_core::safetensors::save(&tower, &import.file).expect("weights are written");
    import.run().expect("an import");
    let pack = Pack::open(&import.out).expect("a pack");
    assert!(pack.known_from() > 0.9 && pack.card.limits.contains("`touchline adapt`"), "{:?}", pack.card);

    // Without --new-classifier, a text tower is asked for.
    let error = Foundation { new_classifier: false, out: dir.path().join("other"), ..import }.run();
    let error = error.expect_err("there is no text tower").to_string();
    assert!(error.contains("no text tower"), "{error}");
}

#[test]
fn files_of_other_models_are_refused_by_name() {
    let reference = reference();
    let dir = tempfile::tempdir().expect("a folder");
    let import = published(&reference.small[0], dir.path());
    let refused = |state: &Tensors, said: &str| {
        candle_core::safetensors::save(state, &import.file).expect("weights are written");
        let error = import.run().expect_err("it is refused").to_string();
        assert!(error.contains(said) && error.contains("open_clip_model.safetensors"), "{error}");
        assert!(!import.out.exists());
    };
    let whole = reference.small[0].tower.state();
    let mut lacks = whole.clone();
    lacks.remove("visual.trunk.stages.2.blocks.0.token_mixer.mixer.conv_kxk.0.bn.bias");
    refused(&lacks, "stages.2.blocks.0.token_mixer.mixer.conv_kxk.0.bn.bias");
    let authors =
        whole.iter().map(|(name, tensor)| (name.replace("visual.trunk.", "image_encoder.model."), tensor.clone()));
    refused(&authors.collect(), "names of its authors");
    let config = dir.path().join("open_clip_config.json");
    let text = std::fs::read_to_string(&config).expect("a file").replace("fastvit_mci0", "vit_base_mci_224");
    std::fs::write(&config, text).expect("a file");
    refused(&whole, "vit_base_mci_224");
    std::fs::remove_file(&config).expect("a file");
    refused(&whole, "open_clip_config.json");
}
