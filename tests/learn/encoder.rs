//! `touchline adapt` and `touchline train` on an imported encoder, which has a frozen network and no classifier.

use std::path::Path;

use crate::common::reference::{json, parameter, parameters};
use crate::common::training::{CLASSES, make_clips, make_stills, run, sources, still_dataset, write_csv};
use touchline_compute::models::pack::Pack;
use touchline_compute::models::{Architecture, Tensors};
use touchline_learn::evaluate::result::{Evaluation, Predictor};

/// Imports an encoder with fixed pseudo-random weights into the pack `empty`.
fn import_transformer(dir: &Path) {
    let tensors = parameters(Architecture::Vit, CLASSES.len(), parameter);
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
    let preprocessing = serde_json::json!({
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 64, 64], "interpolation": "bicubic"
    });
    let config = serde_json::json!({ "architecture": "vit_small_patch16_64", "pretrained_cfg": preprocessing });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let classes = CLASSES.join(",");
    run(dir, &format!("pack import --from timm model.safetensors --classes {classes} --new-classifier -o empty"))
        .well();
}

/// `import` writes the pack `empty`, whose classifier has learned nothing. At least the share `least_right` of held-out seconds is right
/// afterwards.
fn gets_its_classifier_from_recordings_of_all_its_classes(import: fn(&Path), least_right: f64) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let material = dir.join("material");
    let all = sources(3);
    make_clips(&material, &all);
    write_csv(&material.join("channel.csv"), &all, |i| all[i].0);
    let golf: Vec<_> = all.iter().copied().filter(|source| CLASSES[source.0] == "golf").collect();
    write_csv(&material.join("golf.csv"), &golf, |i| golf[i].0);

    import(dir);
    run(dir, "adapt --from material/golf.csv --pack empty -o refused")
        .refused(6, &["nothing of \"chess\"", "can only learn all its classes at once"]);
    assert!(!dir.join("refused/pack.toml").exists());

    let out = run(dir, "adapt --from material/channel.csv --pack empty -o adapted --json figures.json").well();
    assert!(out.contains("golf") && !out.contains("pack's own material"), "{out}");
    let figures: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("figures.json")).unwrap()).unwrap();
    // The classes differ in colour, which an untrained encoder sees too.
    assert!(figures["channel"]["after"].as_f64().unwrap() > least_right, "{figures}");
    assert!(figures["channel"]["before"].as_f64().unwrap() < 0.4, "{figures}");
    let (empty, adapted) = (Pack::open(&dir.join("empty")).unwrap(), Pack::open(&dir.join("adapted")).unwrap());
    assert!(empty.known_from() > 0.9 && adapted.known_from() == 0.0, "only the adapted pack has answers");
    assert!(empty.card.limits.contains("empty") && !adapted.card.limits.contains("empty"), "{}", adapted.card.limits);

    // What it has learned is now its own material, so one class is enough.
    let out = run(dir, "adapt --from material/golf.csv --pack adapted -o twice").well();
    assert!(out.contains("pack's own material"), "{out}");
}

#[test]
fn a_transformer_gets_its_classifier_from_recordings_of_all_its_classes() {
    gets_its_classifier_from_recordings_of_all_its_classes(import_transformer, 0.8);
}

#[test]
fn mobileclip_gets_its_classifier_from_recordings_of_all_its_classes() {
    let import = |dir: &Path| {
        let reference: serde_json::Value = json("models/mobileclip.json");
        let shapes: Vec<(String, Vec<usize>)> =
            serde_json::from_value(reference["small"][0]["tensors"].clone()).unwrap();
        let tensors: Tensors =
            shapes.into_iter().map(|(name, shape)| (name.clone(), parameter(&name, &shape))).collect();
        candle_core::safetensors::save(&tensors, dir.join("open_clip_model.safetensors")).unwrap();
        let config = serde_json::json!({
            "model_cfg": {
                "vision_cfg": { "timm_model_name": "fastvit_mci0", "image_size": 64 },
                "text_cfg": { "heads": 4, "no_causal_mask": true },
            },
            "preprocess_cfg": { "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "interpolation": "bilinear" },
        });
        std::fs::write(dir.join("open_clip_config.json"), config.to_string()).unwrap();
        let classes = CLASSES.join(",");
        let import = "pack import --from mobileclip open_clip_model.safetensors";
        run(dir, &format!("{import} --classes {classes} --new-classifier -o empty")).well();
    };
    // Chance is a third. Random convolutions see less of a colour than random attention does.
    gets_its_classifier_from_recordings_of_all_its_classes(import, 0.5);
}

#[test]
fn the_classifier_of_an_encoder_is_trained_on_a_dataset() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    import_transformer(dir);
    let set = still_dataset(dir, [12, 12, 12]);
    let train = |out: &str, more: &str| {
        run(dir, &format!("train rgb {} -o {out} --init empty --views 0 --still-views 0 {more}", set.display()))
    };
    train("run", "--arch resnet50").refused(2, &["vit", "leave --arch out"]);
    train("run", "--size 96x96").refused(2, &["one size"]);
    run(dir, &format!("train audio {} -o run --init empty", set.display())).refused(4, &["no audio model"]);

    let out = train("run", "").well();
    assert!(out.contains("epoch 1 of step 1 kept"), "{out}");
    train("cv", "--folds 3").well();
    let out = run(dir, &format!("evaluate --cv cv {}", set.display())).well();
    assert!(out.contains("pictures"), "{out}");
    run(dir, &format!("pack build run --cv cv --dataset {} -o trained --name trained", set.display())).well();
    let (empty, trained) = (Pack::open(&dir.join("empty")).unwrap(), Pack::open(&dir.join("trained")).unwrap());
    let [before, after] = [&empty, &trained].map(|pack| pack.rgb.as_ref().unwrap());
    assert_eq!((after.model.architecture, &after.input), (Architecture::Vit, &before.input));
    // The classes differ in colour, which an untrained encoder sees too.
    run(dir, &format!("evaluate trained {} --json figures.json", set.display())).well();
    let figures = std::fs::read_to_string(dir.join("figures.json")).unwrap();
    let evaluation: Evaluation = serde_json::from_str(&figures).unwrap();
    let right = evaluation.kinds.iter().find(|kind| kind.predictor == Predictor::Rgb).unwrap();
    assert!(right.items >= 3 && right.accuracy > 0.9, "{right:?}");
    // The features of its material are in the pack, so a few pictures of one class are enough to adapt it.
    make_stills(&dir.join("more"), 0, 6);
    run(dir, "adapt --from more --pack trained -o adapted --force").well();
}
