//! Each rule with curves and tensors for which it must fire, and with others for which it must not.

use super::*;
use crate::record::{Collection, TensorSummary, Validation};

fn rules() -> Rules {
    Rules::new(OnRule::Stop, RuleConfig::default())
}

fn epoch(phase: Phase, epoch: u32, train_loss: f64, validation: Option<f64>) -> EpochRecord {
    EpochRecord {
        phase,
        step: u64::from(epoch) * 100,
        epoch,
        epochs: 100,
        train_loss,
        train_accuracy: 0.5,
        validation: validation.map(|loss| Validation { loss, accuracy: 0.5, macro_f1: 0.5 }),
        took_s: 1.0,
        images_per_second: 100.0,
        best: false,
    }
}

fn step(phase: Phase, step: u64, loss: f64) -> StepRecord {
    StepRecord { phase, step, epoch: 1, loss, accuracy: 0.5, learning_rate: 0.01, images_per_second: 90.0 }
}

/// Findings of a whole curve.
fn watch(rules: &mut Rules, phase: Phase, curve: impl IntoIterator<Item = (f64, Option<f64>)>) -> Vec<Finding> {
    curve.into_iter().zip(1..).flat_map(|((train, val), n)| rules.epoch(&epoch(phase, n, train, val))).collect()
}

fn training_only(curve: impl IntoIterator<Item = f64>) -> Vec<(RuleName, u32)> {
    let curve = curve.into_iter().map(|loss| (loss, None));
    watch(&mut rules(), Phase::Head, curve).iter().map(|f| (f.rule, f.epoch)).collect()
}

/// Deterministic noise in −1..1.
fn noise(n: u32) -> f64 {
    let mut x = u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x2545_F491_4F6C_DD1D);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

#[test]
fn a_loss_that_does_not_decrease_is_reported_once() {
    use RuleName::LossNotDecreasing as Still;
    let flat = (0..30).map(|_| 3.178);
    assert_eq!(training_only(flat), [(Still, 6)], "after five epochs without a fall, and only then");
    let noisy = (0..30).map(|n| 3.178 * (1.0 + 0.003 * noise(n)));
    assert_eq!(training_only(noisy), [(Still, 6)], "noise of 0.3 % is not a fall");
    let rising = (0..20).map(|n| 2.0 * 0.8_f64.powi(n.min(8)) * 1.05_f64.powi((n - 8).max(0)));
    let found = training_only(rising);
    assert_eq!(found[0].0, Still, "{found:?}");
    assert!((10..=18).contains(&found[0].1), "{found:?}");

    let found = watch(&mut rules(), Phase::Tune, (0..6).map(|n| (0.8312 - 0.00006 * f64::from(n), None)));
    assert_eq!(found[0].evidence, "the training loss has not fallen by 1 % in 5 epochs: 0.8312 → 0.8309");
    assert_eq!((found[0].phase, found[0].step, found[0].epoch, found[0].stopped), (Phase::Tune, 600, 6, true));
}

#[test]
fn healthy_curves_have_no_findings() {
    let cases: [(&str, Vec<f64>); 6] = [
        ("one epoch", vec![3.0]),
        ("a short flat run", vec![3.0; 5]),
        (
            "a fall to a floor, as with label smoothing",
            (0..30).map(|n| 0.65 + 2.5 * (-f64::from(n) / 6.0).exp()).collect(),
        ),
        (
            "the same with 6 % of noise",
            (0..30).map(|n| (0.65 + 2.5 * (-f64::from(n) / 6.0).exp()) * (1.0 + 0.06 * noise(n))).collect(),
        ),
        ("a slow, steady fall", (0..100).map(|n| 3.0 * 0.985_f64.powi(n)).collect()),
        ("one bad epoch", (0..12).map(|n| if n == 6 { 5.0 } else { 2.0 * 0.9_f64.powi(n) }).collect()),
    ];
    for (name, curve) in cases {
        assert_eq!(training_only(curve), [], "{name}");
    }
}

#[test]
fn a_phase_that_begins_with_the_loss_of_the_last_one_has_no_finding() {
    let mut rules = rules();
    let head = (0..10).map(|n| (3.0 * 0.8_f64.powi(n), None));
    assert_eq!(watch(&mut rules, Phase::Head, head), []);
    let tune = (0..9).map(|n| (0.42 - 0.0005 * f64::from(n), None));
    assert_eq!(
        watch(&mut rules, Phase::Tune, tune),
        [],
        "the run has learnt before; over-training covers what follows"
    );
}

#[test]
fn over_training_has_the_patience_of_the_study() {
    let fall = |n: i32| 3.0 * 0.7_f64.powi(n.min(10));
    // The last training loss that counts as better is that of epoch 11.
    let found = training_only((0..30).map(fall));
    assert_eq!(found, [(RuleName::OverTraining, 21)]);
    // The validation loss rises from epoch 9 on while the training loss falls.
    let curve = (0..40).map(|n| (3.0 * 0.93_f64.powi(n), Some(1.0 + 0.01 * f64::from((n - 8) * (n - 8)))));
    let found = watch(&mut rules(), Phase::Tune, curve);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].rule, found[0].epoch, found[0].stopped), (RuleName::OverTraining, 28, true));
    assert_eq!(
        found[0].evidence,
        "the validation loss has not fallen by 0.01 in 20 epochs: 1.0100 in epoch 8, now 4.6100"
    );
    let short = (0..19).map(|n| (3.0 * 0.93_f64.powi(n), Some(1.0)));
    assert_eq!(watch(&mut rules(), Phase::Tune, short), [], "the patience has not run out");
    let warn = Rules::new(OnRule::Warn, RuleConfig::default());
    let found = watch(&mut warn.clone(), Phase::Tune, (0..30).map(|n| (fall(n), None)));
    assert!(found.len() == 1 && !found[0].stopped, "{found:?}");
}

#[test]
fn a_loss_that_is_not_finite_is_reported_immediately_and_once() {
    for (loss, word) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let mut rules = rules();
        assert_eq!(rules.step(&step(Phase::Head, 1, 0.9)), []);
        let found = rules.step(&step(Phase::Head, 2, loss));
        assert_eq!((found[0].rule, found[0].step, found[0].stopped), (RuleName::ExplodingTensor, 2, true));
        assert!(found[0].evidence.contains(word) && found[0].evidence.contains("0.9000"), "{}", found[0].evidence);
        assert_eq!(rules.step(&step(Phase::Head, 3, loss)), []);
        assert_eq!(rules.epoch(&epoch(Phase::Head, 1, loss, None)), [], "the step has reported the same cause");
        assert_eq!(rules.step(&step(Phase::Tune, 4, loss)).len(), 1, "another phase");
    }
    let found = rules().epoch(&epoch(Phase::Head, 1, 0.5, Some(f64::NAN)));
    assert!(found.len() == 1 && found[0].evidence.contains("validation"), "{found:?}");
}

#[test]
fn imbalance_warns_and_names_the_rare_classes() {
    let names: Vec<String> = ["soccer", "golf", "bowling"].map(String::from).to_vec();
    let mut rules = rules();
    assert_eq!(rules.classes(&names, &[100, 10, 40]), [], "a tenth is still allowed");
    assert_eq!(rules.classes(&names[..1], &[100]), [], "one class");
    assert_eq!(rules.classes(&[], &[]), []);
    assert_eq!(rules.classes(&names, &[0, 0, 0]), []);
    let found = rules.classes(&names, &[101, 10, 0]);
    assert_eq!((found[0].rule, found[0].step, found[0].stopped), (RuleName::ClassImbalance, 0, false));
    assert_eq!(
        found[0].evidence,
        "2 of 3 classes have less than 1/10 of the samples of soccer (101): bowling 0, golf 10"
    );
    assert_eq!(rules.classes(&names, &[101, 10, 0]), [], "reported before");
}

fn gradient(name: &str, values: &[f32]) -> TensorSummary {
    TensorSummary::of(Collection::Gradients, name, values)
}

#[test]
fn tensors_that_explode_vanish_or_die_are_named() {
    let mut rules = rules();
    let mut findings = |n: u64, tensors: &[TensorSummary]| rules.tensors(Phase::Tune, n, 1, tensors);
    let healthy = gradient("conv1.weight", &[1e-3, -2e-3]);
    assert_eq!(findings(1, std::slice::from_ref(&healthy)), []);
    let found = findings(2, &[healthy.clone(), gradient("fc.weight", &[f32::NAN, 1.0, f32::INFINITY])]);
    assert_eq!((found.len(), found[0].rule, found[0].stopped), (1, RuleName::ExplodingTensor, true));
    assert_eq!(found[0].evidence, "1 tensor has values that are NaN or infinite: gradient fc.weight (2 of 3)");
    assert_eq!(findings(3, &[gradient("fc.weight", &[f32::NAN])]), [], "reported before");
    let found = findings(4, &[TensorSummary::of(Collection::Weights, "fc.weight", &[-3e7])]);
    assert!(found[0].evidence.contains("beyond 1e6") && found[0].evidence.contains("3.00e7"), "{found:?}");

    let tiny = |name: &str| gradient(name, &[1e-9, -1e-9, 0.0]);
    assert_eq!(findings(5, &[tiny("a"), healthy.clone()]), [], "one batch is not enough");
    assert_eq!(findings(6, &[gradient("a", &[0.1])]), [], "it has recovered");
    assert_eq!(findings(7, &[tiny("a")]), []);
    assert_eq!(findings(8, std::slice::from_ref(&healthy)), [], "not in this collection");
    let found = findings(9, &[tiny("a"), tiny("b")]);
    assert_eq!((found.len(), found[0].rule), (1, RuleName::VanishingTensor));
    assert!(found[0].evidence.ends_with("under 1e-7: gradient a (8.2e-10)"), "{}", found[0].evidence);
    assert!(findings(10, &[tiny("a"), tiny("b")])[0].evidence.contains("gradient b"));
    let weights = TensorSummary::of(Collection::Weights, "bn.bias", &[0.0; 8]);
    assert_eq!(
        (findings(11, std::slice::from_ref(&weights)), findings(12, &[weights])),
        (vec![], vec![]),
        "a weight may be 0"
    );

    let relu = |dead: usize| TensorSummary::of_relu("layer1", &[vec![0.0; dead], vec![0.5; 10 - dead]].concat());
    assert_eq!((findings(13, &[relu(5)]), findings(14, &[relu(5)])), (vec![], vec![]), "half is allowed");
    assert_eq!(findings(15, &[relu(6)]), []);
    let found = findings(16, &[relu(6)]);
    assert_eq!((found[0].rule, found[0].step), (RuleName::DeadRelu, 16));
    assert!(found[0].evidence.ends_with("output layer1 (60 %)"), "{}", found[0].evidence);

    let many: Vec<_> = (0..40).map(|n| gradient(&format!("layer{n}"), &[f32::NAN])).collect();
    let found = findings(17, &many);
    assert!(found.len() == 1 && found[0].evidence.contains("40 tensors") && found[0].evidence.ends_with("and 35 more"));
}

#[test]
fn summaries_describe_tensors() {
    let summary = TensorSummary::of(Collection::Weights, "w", &[1.0, f32::NAN, 3.0, 0.0, f32::NEG_INFINITY, -2.0]);
    assert_eq!((summary.count, summary.not_finite, summary.min, summary.max), (6, 2, -2.0, 3.0));
    assert!((summary.mean - 0.5).abs() < 1e-12 && (summary.std - 3.25_f64.sqrt()).abs() < 1e-12, "{summary:?}");
    assert!((summary.zeros - 1.0 / 6.0).abs() < 1e-12);
    let offset: Vec<f32> = (0..1000).map(|n| 1e6 + (n % 2) as f32).collect();
    let summary = TensorSummary::of(Collection::Weights, "w", &offset);
    assert!((summary.mean - 1_000_000.5).abs() < 1e-6 && (summary.std - 0.5).abs() < 1e-9, "{summary:?}");
    for nothing in [&[][..], &[f32::NAN]] {
        let summary = TensorSummary::of(Collection::Losses, "w", nothing);
        assert_eq!((summary.mean, summary.std, summary.min, summary.max, summary.zeros), (0.0, 0.0, 0.0, 0.0, 0.0));
    }
}

/// A run in which every rule fires reports the same findings when it is interrupted after each epoch.
#[test]
fn a_restored_run_reports_the_same_findings() {
    let names: Vec<String> = ["a", "b"].map(String::from).to_vec();
    let one = |rules: &mut Rules, n: u32| {
        let (phase, of_phase) = if n <= 8 { (Phase::Head, n) } else { (Phase::Tune, n - 8) };
        let loss = if n <= 8 { 3.0 } else { 0.3 + 2.5 * 0.5_f64.powi(of_phase as i32) + 1e-3 * noise(n) };
        let mut found = rules.classes(&names, &[100, 1]);
        found.extend(rules.step(&step(phase, u64::from(n), if n == 30 { f64::NAN } else { loss })));
        found.extend(rules.epoch(&epoch(phase, of_phase, loss, Some(loss))));
        let tiny = gradient("g", &[1e-9]);
        found.extend(rules.tensors(phase, u64::from(n), of_phase, &[tiny, TensorSummary::of_relu("r", &[0.0])]));
        found
    };
    let mut whole = rules();
    let expected: Vec<Finding> = (1..=40).flat_map(|n| one(&mut whole, n)).collect();
    let fired: BTreeSet<RuleName> = expected.iter().map(|f| f.rule).collect();
    assert_eq!(fired.len(), 6, "every rule fires: {fired:?}");
    let mut found = Vec::new();
    let mut text = rules().state().to_string();
    for n in 1..=40 {
        let mut resumed = rules();
        resumed.restore(&serde_json::from_str(&text).unwrap()).unwrap();
        found.extend(one(&mut resumed, n));
        text = resumed.state().to_string();
    }
    assert_eq!(found, expected);
    assert_eq!(text, whole.state().to_string());
    let error = rules().restore(&serde_json::json!({"learnt": 3})).unwrap_err();
    assert!(error.contains("does not fit"), "{error}");
}
