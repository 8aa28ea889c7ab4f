use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

const WIDTH: usize = 6;

/// Samples around `centre`, as features after a ReLU.
fn cluster(rng: &mut SmallRng, centre: [f32; WIDTH], n: usize) -> Vec<f32> {
    (0..n * WIDTH).map(|i| (centre[i % WIDTH] + rng.random_range(-0.5..0.5)).max(0.0)).collect()
}

/// The knowledge of the pack: feature 0 indicates class 0, and feature 1 indicates class 1.
fn replay(rng: &mut SmallRng) -> Replay {
    let mut features = cluster(rng, [3.0, 0.0, 1.0, 1.0, 0.0, 0.0], 30);
    features.extend(cluster(rng, [0.0, 3.0, 1.0, 1.0, 0.0, 0.0], 30));
    let labels = (0..60).map(|i| u32::from(i >= 30)).collect();
    Replay { width: WIDTH, features, labels, sources: (0..60).map(|i| i / 3).collect() }
}

/// The replay samples and the samples of a channel. `channel` holds their labels, sources and features.
fn samples(replay: &Replay, channel: &[(u32, &str, Vec<f32>)], outputs: usize) -> AdaptSamples {
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
            origins.push(SampleOrigin { label: *label, source, item: item as u32, second, seconds });
        }
    }
    let (of_channel, held_out_by) = folds::folds(&origins);
    let mut folds: Vec<usize> = replay.sources.iter().map(|source| *source as usize % FOLDS).collect();
    folds.extend(of_channel);
    let before = own.logits(&features).unwrap();
    let places = origins.iter().map(|o| (o.item, o.second)).collect();
    let (replayed, penalty) = (replay.len(), PENALTY);
    AdaptSamples { width: WIDTH, outputs, features, labels, folds, replayed, penalty, before, places, held_out_by }
}

fn accuracy(samples: &AdaptSamples, scores: &[Vec<f32>], of_channel: bool) -> f64 {
    let is_correct: Vec<f64> =
        scores.iter().zip(&samples.labels).map(|(s, l)| f64::from(u8::from(argmax(s) == *l as usize))).collect();
    samples.mean_over_classes(&is_correct, of_channel)
}

fn before(samples: &AdaptSamples) -> Vec<Vec<f32>> {
    samples.before.chunks(samples.outputs).map(<[f32]>::to_vec).collect()
}

#[test]
fn a_channel_that_looks_different_is_learned_and_nothing_is_forgotten() {
    let rng = &mut SmallRng::seed_from_u64(3);
    let replay = replay(rng);
    // On this channel class 1 looks like class 0 except in feature 4.
    let odd = |rng: &mut SmallRng| cluster(rng, [2.0, 1.0, 1.0, 1.0, 2.0, 0.0], 10);
    let plain = |rng: &mut SmallRng| cluster(rng, [3.0, 0.0, 1.0, 1.0, 0.0, 0.0], 10);
    let channel = [(0, "a", plain(rng)), (0, "b", plain(rng)), (1, "c", odd(rng)), (1, "d", odd(rng))];
    let samples = samples(&replay, &channel, 2);
    assert_eq!(accuracy(&samples, &before(&samples), true), 0.5, "the pack mistakes class 1 for class 0 here");
    assert_eq!(accuracy(&samples, &before(&samples), false), 1.0);
    let (_, scores) = samples.choose_share().unwrap();
    assert_eq!(accuracy(&samples, &scores, true), 1.0, "held-out sources of the channel");
    assert_eq!(accuracy(&samples, &scores, false), 1.0, "the earlier knowledge of the pack");
}

#[test]
fn a_new_class_is_learned() {
    let rng = &mut SmallRng::seed_from_u64(4);
    let replay = replay(rng);
    let darts = |rng: &mut SmallRng| cluster(rng, [1.0, 1.0, 1.0, 1.0, 0.0, 3.0], 8);
    let channel = [(2, "a", darts(rng)), (2, "b", darts(rng))];
    let samples = samples(&replay, &channel, 3);
    assert_eq!(accuracy(&samples, &before(&samples), true), 0.0);
    let (_, scores) = samples.choose_share().unwrap();
    assert_eq!((accuracy(&samples, &scores, true), accuracy(&samples, &scores, false)), (1.0, 1.0));
    let replayed = samples.new_as_replay();
    assert_eq!((replayed.len(), replayed.sources[0], replayed.sources[15]), (16, 0, 1));
}

/// The labels are arbitrary: the correction finds no gain on held-out sources.
#[test]
fn wrong_labels_do_not_look_like_a_gain() {
    let rng = &mut SmallRng::seed_from_u64(5);
    let replay = replay(rng);
    let plain = |rng: &mut SmallRng| cluster(rng, [3.0, 0.0, 1.0, 1.0, 0.0, 0.0], 10);
    let channel: Vec<_> = (0..6u32).map(|i| (i % 2, ["a", "b", "c", "d", "e", "f"][i as usize], plain(rng))).collect();
    let samples = samples(&replay, &channel, 2);
    let (_, scores) = samples.choose_share().unwrap();
    let (old, new) = (accuracy(&samples, &before(&samples), true), accuracy(&samples, &scores, true));
    assert!(new < old + 0.15, "{old} before, {new} after");
    assert_eq!(accuracy(&samples, &scores, false), 1.0);
}

#[test]
fn weights_follow_the_share() {
    let rng = &mut SmallRng::seed_from_u64(6);
    let replay = replay(rng);
    let channel = [(0, "a", cluster(rng, [3.0; WIDTH], 10)), (2, "b", cluster(rng, [1.0; WIDTH], 5))];
    let samples = samples(&replay, &channel, 3);
    let all: Vec<usize> = (0..samples.labels.len()).collect();
    let weights = samples.weights(3.0, &all);
    let sum_of = |range: std::ops::Range<usize>| weights[range].iter().map(|w| f64::from(*w)).sum::<f64>();
    assert!((sum_of(0..30) - 30.0).abs() < 1e-3 && (sum_of(30..60) - 30.0).abs() < 1e-3);
    assert!((sum_of(60..70) - 90.0).abs() < 1e-3, "three times the class's replay samples");
    assert!((sum_of(70..75) - 30.0).abs() < 1e-3, "a new class counts like an average one");
}

#[test]
fn a_loss_on_the_channel_or_on_replay_is_worse() {
    let report = |channel: (f64, f64), replay: (f64, f64)| {
        let change = |(before, after)| Change { before, after };
        AdaptReport {
            classes: Vec::new(),
            channel: change(channel),
            replay: Some(change(replay)),
            share: 1.0,
            written: false,
        }
    };
    assert!(!report((0.5, 0.5), (0.9, 0.89)).is_worse());
    assert!(report((0.5, 0.49), (0.9, 0.9)).is_worse());
    assert!(report((0.5, 0.9), (0.9, 0.87)).is_worse());
}
