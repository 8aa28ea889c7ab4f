use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

const WIDTH: usize = 6;

/// Samples around `centre`, as features after a ReLU.
fn cluster(rng: &mut SmallRng, centre: [f32; WIDTH], n: usize) -> Vec<f32> {
    (0..n * WIDTH).map(|i| (centre[i % WIDTH] + rng.random_range(-0.5..0.5)).max(0.0)).collect()
}

/// What the pack knows: class 0 shows in feature 0, class 1 in feature 1.
fn replay(rng: &mut SmallRng) -> Replay {
    let mut features = cluster(rng, [3.0, 0.0, 1.0, 1.0, 0.0, 0.0], 30);
    features.extend(cluster(rng, [0.0, 3.0, 1.0, 1.0, 0.0, 0.0], 30));
    let labels = (0..60).map(|i| u32::from(i >= 30)).collect();
    Replay { width: WIDTH, features, labels, sources: (0..60).map(|i| i / 3).collect() }
}

/// Replay samples and a channel's, of which `channel` has label, source and features.
fn samples(replay: &Replay, channel: &[(u32, &str, Vec<f32>)], outputs: usize) -> Samples {
    let own = Classifier {
        outputs,
        weight: (0..outputs * WIDTH).map(|i| if i / WIDTH == i % WIDTH && i / WIDTH < 2 { 2.0 } else { 0.0 }).collect(),
        bias: vec![0.0; outputs],
    };
    let (mut features, mut labels) = (replay.features.clone(), replay.labels.clone());
    let mut origins = Vec::new();
    for (item, (label, source, values)) in channel.iter().enumerate() {
        features.extend(values);
        let seconds = (values.len() / WIDTH) as u32;
        for second in 0..seconds {
            labels.push(*label);
            origins.push(Origin { label: *label, source, item: item as u32, second, seconds });
        }
    }
    let (of_channel, held_out_by) = folds::folds(&origins);
    let mut folds: Vec<usize> = replay.sources.iter().map(|source| *source as usize % FOLDS).collect();
    folds.extend(of_channel);
    let before = own.logits(&features).unwrap();
    let places = origins.iter().map(|o| (o.item, o.second)).collect();
    Samples { width: WIDTH, outputs, features, labels, folds, replayed: replay.len(), before, places, held_out_by }
}

fn right(samples: &Samples, scores: &[Vec<f32>], of_channel: bool) -> f64 {
    let is_right: Vec<f64> =
        scores.iter().zip(&samples.labels).map(|(s, l)| f64::from(u8::from(best(s) == *l))).collect();
    samples.mean_over_classes(&is_right, of_channel)
}

fn before(samples: &Samples) -> Vec<Vec<f32>> {
    samples.before.chunks(samples.outputs).map(<[f32]>::to_vec).collect()
}

#[test]
fn a_channel_that_looks_different_is_learned_and_nothing_is_forgotten() {
    let rng = &mut SmallRng::seed_from_u64(3);
    let replay = replay(rng);
    // On this channel class 1 looks like class 0, but for feature 4.
    let odd = |rng: &mut SmallRng| cluster(rng, [2.0, 1.0, 1.0, 1.0, 2.0, 0.0], 10);
    let plain = |rng: &mut SmallRng| cluster(rng, [3.0, 0.0, 1.0, 1.0, 0.0, 0.0], 10);
    let channel = [(0, "a", plain(rng)), (0, "b", plain(rng)), (1, "c", odd(rng)), (1, "d", odd(rng))];
    let samples = samples(&replay, &channel, 2);
    assert_eq!(right(&samples, &before(&samples), true), 0.5, "the pack takes class 1 for class 0 here");
    assert_eq!(right(&samples, &before(&samples), false), 1.0);
    let (_, scores) = samples.choose_share().unwrap();
    assert_eq!(right(&samples, &scores, true), 1.0, "sources that were held out");
    assert_eq!(right(&samples, &scores, false), 1.0, "what the pack knew");
}

#[test]
fn a_new_class_is_learned() {
    let rng = &mut SmallRng::seed_from_u64(4);
    let replay = replay(rng);
    let darts = |rng: &mut SmallRng| cluster(rng, [1.0, 1.0, 1.0, 1.0, 0.0, 3.0], 8);
    let channel = [(2, "a", darts(rng)), (2, "b", darts(rng))];
    let samples = samples(&replay, &channel, 3);
    assert_eq!(right(&samples, &before(&samples), true), 0.0);
    let (_, scores) = samples.choose_share().unwrap();
    assert_eq!((right(&samples, &scores, true), right(&samples, &scores, false)), (1.0, 1.0));
    let kept = samples.new_as_replay();
    assert_eq!((kept.len(), kept.sources[0], kept.sources[15]), (16, 0, 1));
}

/// Labels that say nothing: the correction finds no gain on held-out sources.
#[test]
fn wrong_labels_do_not_look_like_a_gain() {
    let rng = &mut SmallRng::seed_from_u64(5);
    let replay = replay(rng);
    let plain = |rng: &mut SmallRng| cluster(rng, [3.0, 0.0, 1.0, 1.0, 0.0, 0.0], 10);
    let channel: Vec<_> = (0..6u32).map(|i| (i % 2, ["a", "b", "c", "d", "e", "f"][i as usize], plain(rng))).collect();
    let samples = samples(&replay, &channel, 2);
    let (_, scores) = samples.choose_share().unwrap();
    let (was, is) = (right(&samples, &before(&samples), true), right(&samples, &scores, true));
    assert!(is < was + 0.15, "{was} before, {is} after");
    assert_eq!(right(&samples, &scores, false), 1.0);
}

#[test]
fn weights_follow_the_share() {
    let rng = &mut SmallRng::seed_from_u64(6);
    let replay = replay(rng);
    let channel = [(0, "a", cluster(rng, [3.0; WIDTH], 10)), (2, "b", cluster(rng, [1.0; WIDTH], 5))];
    let samples = samples(&replay, &channel, 3);
    let all: Vec<usize> = (0..samples.labels.len()).collect();
    let weights = samples.weights(3.0, &all);
    let of = |range: std::ops::Range<usize>| weights[range].iter().map(|w| f64::from(*w)).sum::<f64>();
    assert!((of(0..30) - 30.0).abs() < 1e-3 && (of(30..60) - 30.0).abs() < 1e-3);
    assert!((of(60..70) - 90.0).abs() < 1e-3, "three times the class's replay samples");
    assert!((of(70..75) - 30.0).abs() < 1e-3, "a new class counts like an average one");
}

#[test]
fn a_loss_on_the_channel_or_of_older_knowledge_is_worse() {
    let report = |channel: (f64, f64), replay: (f64, f64)| {
        let change = |(before, after)| Change { before, after };
        Report { classes: Vec::new(), channel: change(channel), replay: change(replay), share: 1.0, written: false }
    };
    assert!(!report((0.5, 0.5), (0.9, 0.89)).is_worse());
    assert!(report((0.5, 0.49), (0.9, 0.9)).is_worse());
    assert!(report((0.5, 0.9), (0.9, 0.87)).is_worse());
}
