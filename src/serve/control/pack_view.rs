//! A pack as JSON, for the API and for `touchline pack inspect`.

use std::collections::BTreeMap;

use serde::Serialize;

use touchline_compute::features::params::{AudioParams, FlowParams, PictureParams};
use touchline_compute::models::Architecture;
use touchline_compute::models::pack::{Card, ModelPart, Pack, Unknown};
use touchline_core::fusion::FusionTable;
use touchline_core::labels::{ClassSet, Modality};

/// A pack without its name, classes and path.
#[derive(Serialize)]
pub struct PackView<'a> {
    left_out: &'a BTreeMap<String, String>,
    models: ModelsView<'a>,
    fusion: TableView<'a>,
    unknown: Option<Unknown>,
    card: &'a Card,
}

impl<'a> PackView<'a> {
    /// A view of `pack`.
    pub fn new(pack: &'a Pack) -> Self {
        fn model<'a, P>(part: &'a Option<ModelPart<P>>, classes: &'a ClassSet) -> Option<ModelView<'a, P>> {
            part.as_ref().map(|part| ModelView {
                architecture: part.model.architecture,
                sha256: &part.model.sha256,
                classes: part.model.outputs.iter().map(|id| classes.name(*id)).collect(),
                temperature: part.model.temperature,
                input: &part.input,
            })
        }
        Self {
            left_out: &pack.left_out,
            models: ModelsView {
                rgb: model(&pack.rgb, &pack.classes),
                flow: model(&pack.flow, &pack.classes),
                audio: model(&pack.audio, &pack.classes),
            },
            fusion: TableView::new(&pack.fusion, &pack.classes, pack.refit.as_deref()),
            unknown: pack.unknown,
            card: &pack.card,
        }
    }
}

#[derive(Serialize)]
struct ModelsView<'a> {
    rgb: Option<ModelView<'a, PictureParams>>,
    flow: Option<ModelView<'a, FlowParams>>,
    audio: Option<ModelView<'a, AudioParams>>,
}

#[derive(Serialize)]
struct ModelView<'a, P> {
    architecture: Architecture,
    sha256: &'a str,
    classes: Vec<&'a str>,
    temperature: f32,
    input: &'a P,
}

/// The class-to-modality table: the order, and per class the modality with the F1 of each on validation.
#[derive(Serialize)]
struct TableView<'a> {
    order: &'a [Modality],
    refit: Option<&'a str>,
    table: BTreeMap<&'a str, EntryView>,
}

#[derive(Serialize)]
struct EntryView {
    modality: Modality,
    rgb: Option<f32>,
    flow: Option<f32>,
    audio: Option<f32>,
}

impl<'a> TableView<'a> {
    fn new(fusion: &'a FusionTable, classes: &'a ClassSet, refit: Option<&'a str>) -> Self {
        let entries = classes.names().iter().zip(fusion.entries());
        let table = entries
            .map(|(name, e)| {
                let entry = EntryView { modality: e.modality, rgb: e.f1.rgb, flow: e.f1.flow, audio: e.f1.audio };
                (name.as_str(), entry)
            })
            .collect();
        Self { order: fusion.order(), refit, table }
    }
}
