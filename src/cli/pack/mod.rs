//! `touchline pack`: builds, calibrates and inspects packs, imports and exports networks, and brings packs to a fleet.

#[cfg(feature = "train")]
mod build;
#[cfg(feature = "train")]
mod calibrate;
mod export;
mod fleet;
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
    /// Build a pack from runs of `touchline train`: fits temperatures and the table, writes the card.
    #[cfg(feature = "train")]
    Build(build::BuildArgs),
    /// Measure the value ranges that --precision int8 needs, and write them into the pack.
    #[cfg(feature = "train")]
    Calibrate(calibrate::CalibrateArgs),
    /// Verify a pack, load it, run its models once, and print its contents.
    Inspect(inspect::InspectArgs),
    /// Write the networks of a pack as state dicts for PyTorch or as ONNX.
    Export(export::ExportArgs),
    /// Import weights from elsewhere into a new pack or into a copy of a pack.
    Import(import::ImportArgs),
    /// Put a pack into the object store of a fleet.
    Publish(fleet::PublishArgs),
    /// List the packs in the object store of a fleet.
    List(fleet::ListArgs),
    /// Remove a pack from the object store of a fleet.
    Remove(fleet::RemoveArgs),
    /// Bring a published pack to all machines of a fleet in stages: start, status, halt.
    Rollout(fleet::RolloutArgs),
}

pub fn pack(args: PackArgs) -> Result<()> {
    match args.command {
        #[cfg(feature = "train")]
        PackCommand::Build(args) => build::build(args),
        #[cfg(feature = "train")]
        PackCommand::Calibrate(args) => calibrate::calibrate(&args),
        PackCommand::Inspect(args) => inspect::inspect(&args),
        PackCommand::Export(args) => export::export(&args),
        PackCommand::Import(args) => import::import(args),
        PackCommand::Publish(args) => fleet::publish(&args),
        PackCommand::List(args) => fleet::list(&args),
        PackCommand::Remove(args) => fleet::remove(&args),
        PackCommand::Rollout(args) => fleet::rollout(&args),
    }
}
