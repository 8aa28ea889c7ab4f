//! `touchline pack`: what a pack holds, and weights from elsewhere.

mod build;
mod calibrate;
mod import;
mod inspect;

use clap::{Args, Subcommand};

use touchline_core::error::Result;

#[derive(Debug, Args)]
pub struct PackArgs {
    #[command(subcommand)]
    command: PackCommand,
}

#[derive(Debug, Subcommand)]
enum PackCommand {
    /// Build a pack from what `touchline train` made: temperatures, table, card.
    Build(build::BuildArgs),
    /// Measure the ranges of a pack's values, which --precision int8 wants.
    Calibrate(calibrate::CalibrateArgs),
    /// Verify a pack, load it, run its models once, and say what it holds.
    Inspect(inspect::InspectArgs),
    /// Put weights from elsewhere into a new pack or into a copy of one.
    Import(import::ImportArgs),
}

pub fn pack(args: PackArgs) -> Result<()> {
    match args.command {
        PackCommand::Build(args) => build::build(args),
        PackCommand::Calibrate(args) => calibrate::calibrate(&args),
        PackCommand::Inspect(args) => inspect::inspect(&args),
        PackCommand::Import(args) => import::import(args),
    }
}
