//! Imported networks against the packages `transformers` and `timm` (`tests/reference/models/encoders.py`): features, classifiers made of
//! prompts, and packs from the file to the engine.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use touchline_compute::infer::Engine;
use touchline_compute::models::foundation::Foundation;
use touchline_compute::models::pack::Pack;
use touchline_compute::models::timm::Timm;
use touchline_compute::models::{Architecture, Network, Tensors, read_weights};
use touchline_compute::nn::fused::Precision;
use touchline_core::clip::ClipSecond;
use touchline_core::frame::Frame;
use touchline_core::observer::{DeviceFault, Observer, Stage};
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;

use crate::reference::{generated, json, parameter, parameters};

const HEADS: usize = 6;
pub(crate) const CLASSES: [&str; 3] = ["tennis", "golf", "other"];

/// The largest permitted difference of a feature from the reference.
pub(crate) const TOLERANCE: f64 = 1e-4;

/// The same for logits of a pack, whose weights are rounded to f16.
const ROUNDED: f64 = 1e-3;

#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    prompts: Vec<Vec<Vec<usize>>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    hidden_act: String,
    #[serde(default = "clip_side")]
    side: usize,
    features: Vec<f64>,
    logits: Vec<f64>,
}

fn clip_side() -> usize {
    64
}

struct Unobserved;

impl Observer for Unobserved {
    fn observe_stage(&self, _: Stage, _: u64) {}

    fn device_fault(&self, _: DeviceFault) {}
}

/// The word that fills up texts of SigLIP: `PADDING` of `encoders.py`.
const PADDING: &str = "w12";

fn state(architecture: Architecture) -> Tensors {
    parameters(architecture, CLASSES.len(), parameter)
}

pub(crate) fn pictures(side: usize) -> Tensor {
    generated("input", &[2, 3, side, side], -2.0, 2.0)
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|tensor| tensor.to_vec1()).expect("f32 values")
}

pub(crate) fn assert_near(have: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(have.len(), want.len());
    let error = have.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    println!("max difference {error:.1e}");
    assert!(error < tolerance, "off by {error}");
}

/// Writes a model as its publisher does: weights, `config.json` and a tokenizer.
fn publish(dir: &Path, tensors: &Tensors, hidden_act: &str) {
    candle_core::safetensors::save(tensors, dir.join("model.safetensors")).expect("weights are written");
    let vision = serde_json::json!({ "num_attention_heads": HEADS, "hidden_act": hidden_act });
    let text = serde_json::json!({ "num_attention_heads": 4, "hidden_act": hidden_act });
    let config = if hidden_act.is_empty() {
        serde_json::json!({ "num_attention_heads": HEADS })
    } else {
        serde_json::json!({ "vision_config": vision, "text_config": text })
    };
    std::fs::write(dir.join("config.json"), config.to_string()).expect("a file");
    write_tokenizer(dir);
}

/// Writes a `tokenizer.json` as that of CLIP, whose words are `w1` to `w13`.
pub(crate) fn write_tokenizer(dir: &Path) {
    let mut vocabulary = serde_json::Map::new();
    let words = std::iter::once("unknown".to_owned()).chain((1..14).map(|i| format!("w{i}")));
    for (id, word) in words.chain(["<start>".into(), "<end>".into()]).enumerate() {
        vocabulary.insert(word, id.into());
    }
    let special = |id: &str, n: u32| (id.to_owned(), serde_json::json!({ "id": id, "ids": [n], "tokens": [id] }));
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "decoder": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": "<start>", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "<end>", "type_id": 0 } },
            ],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": serde_json::Map::from_iter([special("<start>", 14), special("<end>", 15)]),
        },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "unknown" },
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).expect("a file");
    let padding = serde_json::json!({ "pad_token": { "content": PADDING } });
    std::fs::write(dir.join("tokenizer_config.json"), padding.to_string()).expect("a file");
}

fn foundation(architecture: Architecture, dir: &Path) -> Foundation {
    Foundation {
        architecture,
        file: dir.join("model.safetensors"),
        tokenizer: None,
        prompts: Default::default(),
        classes: CLASSES.map(str::to_owned).to_vec(),
        new_classifier: false,
        out: dir.join("pack"),
    }
}

fn with_heads(mut tensors: Tensors, heads: usize) -> Tensors {
    tensors.insert("config.heads".into(), Tensor::new(&[heads as f32], &Device::Cpu).expect("a tensor"));
    tensors
}

/// Publishes CLIP or SigLIP in `dir` and imports it. `written` writes prompts that are lists of words.
fn imported_by_prompts(
    architecture: Architecture,
    hidden_act: &str,
    dir: &Path,
    written: fn(&[usize]) -> String,
) -> PathBuf {
    let reference: Reference = json(&format!("models/{architecture}.json"));
    publish(dir, &state(architecture), hidden_act);
    let mut import = foundation(architecture, dir);
    for (class, prompts) in CLASSES.iter().zip(&reference.prompts) {
        import.prompts.insert((*class).to_owned(), prompts.iter().map(|ids| written(ids)).collect());
    }
    let imported = import.run().expect("an import");
    assert!(imported.unknown.is_empty(), "{:?}", imported.unknown);
    import.out
}

pub(crate) fn imported_clip(dir: &Path) -> PathBuf {
    imported_by_prompts(Architecture::ClipVit, "quick_gelu", dir, words)
}

pub(crate) fn imported_siglip(dir: &Path) -> PathBuf {
    // SigLIP reads prompts in lower case and without punctuation.
    imported_by_prompts(Architecture::SiglipVit, "gelu_pytorch_tanh", dir, |ids| {
        format!("{}.", words(ids).to_uppercase())
    })
}

pub(crate) fn imported_dino(dir: &Path) -> PathBuf {
    publish(dir, &state(Architecture::DinoV2), "");
    let import = foundation(Architecture::DinoV2, dir);
    assert!(import.run().expect("an import").unknown.is_empty());
    import.out
}

pub(crate) fn imported_transformer(dir: &Path) -> PathBuf {
    let import = timm("vit_small_patch16_64.in1k", [3, 64, 64], &state(Architecture::Vit), dir);
    import.run().expect("an import");
    import.out
}

pub(crate) fn words(ids: &[usize]) -> String {
    ids.iter().map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ")
}

/// Publishes a network as timm does.
fn timm(name: &str, input_size: [usize; 3], tensors: &Tensors, dir: &Path) -> Timm {
    let file = dir.join("model.safetensors");
    candle_core::safetensors::save(tensors, &file).expect("weights are written");
    let preprocessing = serde_json::json!({
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "input_size": input_size, "interpolation": "bicubic", "crop_pct": 0.9
    });
    let config = serde_json::json!({ "architecture": name, "num_classes": 3, "pretrained_cfg": preprocessing });
    std::fs::write(dir.join("config.json"), config.to_string()).expect("a file");
    Timm { file, classes: CLASSES.map(str::to_owned).to_vec(), new_classifier: false, out: dir.join("pack") }
}

/// Logits of the imported pack, and the scores of the engine for two streams at once and one after the other.
pub(crate) fn assert_pack(pack: &Path, side: usize, logits: &[f64], tolerance: f64) {
    let pack = Pack::open(pack).expect("a pack");
    let part = pack.rgb.as_ref().expect("a picture model");
    assert_eq!((part.input.width, part.input.height), (side, side));
    let tensors = read_weights(&part.model.weights, &candle_core::Device::Cpu).expect("weights").tensors;
    let network = Network::load(part.model.architecture, &tensors, Some(CLASSES.len())).expect("all tensors");
    assert_near(&values(&network.forward(&pictures(side)).expect("a forward pass")), logits, tolerance);

    // Precisions that encoders do not have fall back to f32.
    let mut engine = Engine::load(Pack { precision: Precision::Bf16, ..pack }).expect("the pack loads");
    let second = |seed: usize| {
        let data: Vec<u8> = (0..3 * 90 * 70).map(|i| ((i / 3 * seed + i) % 251) as u8).collect();
        let mut clip = ClipSecond::of_pictures(vec![Frame::new(Pooled::detached(data), 90, 70, Pts(0), 0)]);
        clip.rgb = vec![0];
        clip
    };
    let seconds = [second(3), second(7)];
    let together = engine.score(&seconds.iter().collect::<Vec<_>>(), &Unobserved).expect("scores");
    let alone: Vec<_> = seconds.iter().map(|s| engine.score(&[s], &Unobserved).expect("a score").remove(0)).collect();
    assert_eq!(alone, together, "bit for bit");
    let scores = together[0].scores.rgb.as_ref().expect("pictures were scored");
    assert!((scores.scores.iter().sum::<f32>() - 1.0).abs() < 1e-4);
}

#[test]
fn clip_matches_transformers_from_file_to_pack() {
    let reference: Reference = json("models/clip_vit.json");
    for case in &reference.cases {
        let mut tensors = with_heads(state(Architecture::ClipVit), HEADS);
        let quick = f32::from(u8::from(case.hidden_act == "quick_gelu"));
        tensors.insert("config.quick_gelu".into(), Tensor::new(&[quick], &Device::Cpu).expect("a tensor"));
        let network = Network::load(Architecture::ClipVit, &tensors, None).expect("all tensors are present");
        let features = network.features(&pictures(case.side)).expect("a forward pass");
        assert_near(&values(&features), &case.features, TOLERANCE);
        let dir = tempfile::tempdir().expect("a folder");
        assert_pack(
            &imported_by_prompts(Architecture::ClipVit, &case.hidden_act, dir.path(), words),
            case.side,
            &case.logits,
            ROUNDED,
        );
    }
}

#[test]
fn siglip_matches_transformers_from_file_to_pack() {
    let reference: Reference = json("models/siglip_vit.json");
    let [case] = &reference.cases[..] else { panic!("one case") };
    let tensors = with_heads(state(Architecture::SiglipVit), HEADS);
    let network = Network::load(Architecture::SiglipVit, &tensors, None).expect("all tensors are present");
    assert_near(&values(&network.features(&pictures(case.side)).expect("a pass")), &case.features, TOLERANCE);
    let dir = tempfile::tempdir().expect("a folder");
    assert_pack(&imported_siglip(dir.path()), case.side, &case.logits, ROUNDED);
}

#[test]
fn dinov2_matches_transformers_from_file_to_pack() {
    let reference: Reference = json("models/dinov2.json");
    let [own, resampled] = &reference.cases[..] else { panic!("two cases") };
    let published = state(Architecture::DinoV2);
    let tensors =
        published.iter().map(|(name, tensor)| (name.trim_start_matches("dinov2.").to_owned(), tensor.clone()));
    let tensors = with_heads(tensors.collect(), HEADS);
    let network = Network::load(Architecture::DinoV2, &tensors, Some(3)).expect("all tensors are present");
    assert_near(&values(&network.features(&pictures(own.side)).expect("a pass")), &own.features, TOLERANCE);
    assert_near(&values(&network.forward(&pictures(own.side)).expect("a pass")), &own.logits, TOLERANCE);
    let dir = tempfile::tempdir().expect("a folder");
    assert_pack(&imported_dino(dir.path()), resampled.side, &resampled.logits, ROUNDED);
}

#[test]
fn transformers_of_timm_match_it_from_file_to_pack() {
    let reference: Reference = json("models/vit.json");
    let [case] = &reference.cases[..] else { panic!("one case") };
    let tensors = with_heads(state(Architecture::Vit), 2);
    let network = Network::load(Architecture::Vit, &tensors, Some(3)).expect("all tensors are present");
    assert_near(&values(&network.features(&pictures(case.side)).expect("a pass")), &case.features, TOLERANCE);
    assert_near(&values(&network.forward(&pictures(case.side)).expect("a pass")), &case.logits, TOLERANCE);
    let dir = tempfile::tempdir().expect("a folder");
    let pack = imported_transformer(dir.path());
    assert_pack(&pack, case.side, &case.logits, ROUNDED);
    let input = Pack::open(&pack).expect("a pack").rgb.expect("a picture model").input;
    assert_eq!((input.mean, input.std), ([0.5; 3], [0.25; 3]), "the preprocessing of its file");
}

/// The names of `timm` are other than torchvision's, whose tensors the pack has.
#[test]
fn mobilenet_v2_of_timm_matches_it() {
    #[derive(Deserialize)]
    struct Shapes {
        tensors: Vec<(String, Vec<usize>)>,
    }
    let (shapes, reference): (Shapes, Reference) =
        (json("models/timm_mobilenetv2_100.json"), json("models/timm_mobilenetv2_100.json"));
    let rounded = |name: &str, shape: &[usize]| parameter(name, shape).to_dtype(DType::F16).expect("rounded values");
    let tensors: Tensors =
        shapes.tensors.into_iter().map(|(name, shape)| (name.clone(), rounded(&name, &shape))).collect();
    let dir = tempfile::tempdir().expect("a folder");
    let import = timm("mobilenetv2_100.ra_in1k", [3, 64, 64], &tensors, dir.path());
    assert_eq!(import.run().expect("an import").taken, tensors.len());
    let model = Pack::open(&import.out).expect("a pack").rgb.expect("a picture model").model;
    let own = read_weights(&model.weights, &Device::Cpu).expect("weights").tensors;
    let network = Network::load(model.architecture, &own, Some(CLASSES.len())).expect("all tensors");
    let logits = network.forward(&pictures(64)).expect("a forward pass");
    assert_near(&values(&logits), &reference.cases[0].logits, TOLERANCE);
}

/// All answers of an empty classifier are unknown.
#[test]
fn an_empty_classifier_is_made_on_request_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut tensors = state(Architecture::DinoV2);
    tensors.retain(|name, _| !name.starts_with("classifier."));
    publish(dir.path(), &tensors, "");
    let classes: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
    let import = Foundation { classes, new_classifier: true, ..foundation(Architecture::DinoV2, dir.path()) };
    import.run().expect("an import");
    let pack = Pack::open(&import.out).expect("a pack");
    assert!(pack.known_from() > 0.9 && pack.card.limits.contains("`touchline adapt`"), "{:?}", pack.card);
    let model = pack.rgb.expect("a picture model").model;
    let own = read_weights(&model.weights, &Device::Cpu).expect("weights").tensors;
    assert_eq!(own["classifier.weight"].dims(), [4, 96]);
    let network = Network::load(model.architecture, &own, Some(4)).expect("all tensors");
    assert_eq!(values(&network.forward(&pictures(224)).expect("a pass")), [0.0; 8]);

    let dir = tempfile::tempdir().expect("a folder");
    let import = timm("vit_small_patch16_64", [3, 64, 64], &state(Architecture::Vit), dir.path());
    let classes = vec!["a".to_owned(), "b".to_owned()];
    let error =
        Timm { classes: classes.clone(), ..import.clone() }.run().expect_err("it has three outputs").to_string();
    assert!(error.contains("3 outputs") && error.contains("--new-classifier"), "{error}");
    Timm { classes, new_classifier: true, ..import }.run().expect("an import");
}

#[test]
fn other_networks_of_timm_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |name: &str, size: usize, tensors: &Tensors| {
        let import = timm(name, [3, size, size], tensors, dir.path());
        let message = import.run().expect_err("it is refused").to_string();
        assert!(!import.out.exists(), "nothing is written: {message}");
        message
    };
    let mut tensors = state(Architecture::Vit);
    for name in ["efficientnet_lite0", "vit_base_patch16_clip_quickgelu_224", "vit_huge_patch14_224", "resnet50d"] {
        let message = refused(name, 64, &tensors);
        assert!(message.contains(name) && message.contains("mobilenetv2_100"), "{message}");
    }
    assert!(refused("vit_small_patch16_64", 96, &tensors).contains("96 x 96"));
    assert!(refused("mobilenetv2_100", 64, &tensors).contains("no classifier"));
    tensors.insert("norm_pre.weight".into(), tensors["norm.weight"].clone());
    assert!(refused("vit_small_patch16_64", 64, &tensors).contains("norm_pre.weight"));
}

#[test]
fn what_cannot_be_imported_is_refused_with_advice() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |architecture: Architecture, drop: &str, change: &dyn Fn(&mut Foundation)| {
        let mut tensors = state(architecture);
        tensors.retain(|name, _| !name.starts_with(drop));
        publish(dir.path(), &tensors, if architecture == Architecture::ClipVit { "quick_gelu" } else { "" });
        let mut import = foundation(architecture, dir.path());
        if architecture == Architecture::ClipVit {
            // The built-in prompts are too long for a tower of eight tokens.
            import.prompts = CLASSES.map(|class| (class.to_owned(), vec!["w1".to_owned()])).into();
        }
        change(&mut import);
        let message = import.run().expect_err("it is refused").to_string();
        assert!(!import.out.exists(), "nothing is written: {message}");
        message
    };
    let message = refused(Architecture::DinoV2, "classifier.", &|_| {});
    assert!(message.contains("--new-classifier") && message.contains("`touchline adapt`"), "{message}");
    let message = refused(Architecture::ClipVit, "text_model.", &|_| {});
    assert!(message.contains("no text tower"), "{message}");
    let message = refused(Architecture::ClipVit, "vision_model.post_layernorm", &|_| {});
    assert!(message.contains("vision_model.post_layernorm.weight"), "{message}");
    let clip = |change: &dyn Fn(&mut Foundation)| refused(Architecture::ClipVit, "nothing", change);
    let message = clip(&|import| drop(import.prompts.insert("tenis".into(), vec!["w1".into()])));
    assert!(message.contains("tenis"), "{message}");
    let message = clip(&|import| drop(import.prompts.insert("golf".into(), vec!["w1 ".repeat(9)])));
    assert!(message.contains("11 tokens") && message.contains("golf"), "{message}");
    let message = clip(&|import| import.tokenizer = Some("/nowhere/tokenizer.json".into()));
    assert!(message.contains("--tokenizer"), "{message}");
    let message = refused(Architecture::DinoV2, "nothing", &|import| drop(import.classes.pop()));
    assert!(message.contains("3 outputs"), "{message}");
}
