//! What a pack says about itself: the fusion section, the card, the list of recordings with their sides.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::manifest::{Item, Kind};
use super::split::Side;
use super::train::{CLIP_WEIGHT, TrainConfig};
use crate::fusion::FusionTable;
use crate::labels::{ClassSet, OTHER};
use crate::models::pack::{Card, Fusion, FusionEntry};

/// A table as the manifest has it, F1 to four decimals.
pub fn manifest_fusion(fusion: &FusionTable, classes: &ClassSet) -> Fusion {
    let round = |v: Option<f32>| v.map(|v| (v * 1e4).round() / 1e4);
    let table = classes
        .names()
        .iter()
        .zip(fusion.entries())
        .map(|(name, e)| {
            let entry = FusionEntry {
                modality: e.modality,
                rgb: round(e.f1.rgb),
                flow: round(e.f1.flow),
                audio: round(e.f1.audio),
            };
            (name.clone(), entry)
        })
        .collect();
    Fusion { order: fusion.order().to_vec(), table, refit: None }
}

/// The card: material, method, split, figures, limits.
pub fn card(items: &[Item], sides: &[Side], config: &TrainConfig, measured: BTreeMap<String, f64>) -> Card {
    let count = |kind| items.iter().filter(|i| i.kind == kind).count();
    let on = |side| sides.iter().zip(items).filter(|(s, i)| **s == side && i.kind == Kind::Clip).count();
    let sources = |side| {
        let of = sides.iter().zip(items).filter(|(s, i)| **s == side && i.kind == Kind::Clip);
        of.map(|(_, i)| i.source.as_str()).collect::<BTreeSet<_>>().len()
    };
    let fingerprint = Sha256::digest(split_csv(items, sides).as_bytes());
    Card {
        trained_on: format!(
            "{} still pictures, {} video clips and {} pieces of sound; {}",
            count(Kind::Picture),
            count(Kind::Clip),
            count(Kind::Sound),
            config.material
        ),
        method: format!(
            "MobileNetV2 with ImageNet weights, frozen; one linear head per modality (AdamW, {} epochs, label smoothing \
             {}, dropout {}, classes and sources balanced), epoch and temperature chosen on validation; pictures with \
             augmented views, clip frames weighted {CLIP_WEIGHT} to 1",
            config.head.epochs, config.head.label_smoothing, config.head.dropout
        ),
        split: format!(
            "80/10/10 by source, seed {}: {} / {} / {} clips (split.csv, SHA-256 starts {:02x}{:02x}{:02x}{:02x}); a class \
             from one source is in training only; clips that show little play are neither learned nor measured; each \
             picture is its own source",
            config.seed,
            on(Side::Train),
            on(Side::Validation),
            on(Side::Test),
            fingerprint[0],
            fingerprint[1],
            fingerprint[2],
            fingerprint[3]
        ),
        measured,
        limits: format!(
            "The figures rest on {} recordings of {} sources: they move by several points with the choice of sources. What \
             is no known sport is '{OTHER}' only as far as such material was there to learn from.",
            on(Side::Test),
            sources(Side::Test)
        ),
    }
}

/// Kind, path, class, source and side of every recording; pictures are left to the seed, they are thousands.
pub fn split_csv(items: &[Item], sides: &[Side]) -> String {
    let mut text = String::from("path,class,source,side\n");
    for (item, side) in items.iter().zip(sides).filter(|(i, _)| i.kind != Kind::Picture) {
        let quoted = if item.source.contains([',', '"']) {
            format!("\"{}\"", item.source.replace('"', "\"\""))
        } else {
            item.source.clone()
        };
        text += &format!("{},{},{quoted},{}\n", item.path.display(), item.class, side.as_str());
    }
    text
}
