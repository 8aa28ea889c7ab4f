//! The commands that train: they need the crate `touchline-learn`, which a server can leave out (feature `train`).

use clap::Subcommand;

use super::{adapt, dataset, evaluate, report, train};
use touchline_core::error::Result;

#[derive(Debug, Subcommand)]
pub(super) enum TrainingCommand {
    /// Build a dataset for training: cut recordings into seconds, split them by source, count them.
    Dataset(dataset::DatasetArgs),
    /// Train the model of one modality, or of all three, on a dataset.
    Train(train::TrainArgs),
    /// Evaluate a pack on held-out data of a dataset: by second and recording, each modality, fusion, calibration.
    Evaluate(evaluate::EvaluateArgs),
    /// Adapt a pack to a channel from a few minutes of labelled recordings. Takes a minute or two.
    Adapt(adapt::AdaptArgs),
    /// Write the report of a training run or an evaluation again, as one HTML file.
    Report(report::ReportArgs),
}

impl TrainingCommand {
    pub(super) fn execute(self) -> Result<()> {
        match self {
            Self::Dataset(args) => dataset::dataset(args),
            Self::Train(args) => train::train(args),
            Self::Evaluate(args) => evaluate::evaluate(args),
            Self::Adapt(args) => adapt::adapt(args),
            Self::Report(args) => report::report(&args),
        }
    }
}
