//! Flags of the sliding vote.

use clap::Args;
use serde::Serialize;

#[derive(Clone, Debug, Args, Serialize)]
pub(super) struct VoteArgs {
    /// Length of the sliding vote, 1 to 600 seconds [default: 10].
    #[arg(long = "vote-window", value_name = "SECONDS")]
    window: Option<u32>,
    /// Seconds between two estimates, at most --vote-window [default: 1].
    #[arg(long = "vote-stride", value_name = "SECONDS")]
    stride: Option<u32>,
    /// A class comes on air at this mean probability [default: 0.6].
    #[arg(long = "vote-onset", value_name = "PROBABILITY")]
    onset: Option<f32>,
    /// A class goes off air below this mean probability, at most --vote-onset [default: 0.4].
    #[arg(long = "vote-offset", value_name = "PROBABILITY")]
    offset: Option<f32>,
}
