//! Compares a GPU with the CPU, and measures its speed. Needs no GStreamer.
//!
//! ```sh
//! cargo build --release --locked --no-default-features --features cuda --bin touchline-gpu-bench
//! touchline-gpu-bench parity  [--device 0]                 exit code 1 if anything differs too much from the CPU
//! touchline-gpu-bench stages  [--device 0] [--pack DIR]    time of each stage by batch, beside its floor
//! touchline-gpu-bench streams [--device 0] [--pack DIR]    streams at a p95 of the decision latency below 250 ms
//! ```
//!
//! Output is Markdown tables. `deploy/gpu-check.sh` runs all of it, and the peers.

mod ceilings;
mod material;
mod parity;
mod queue;
mod stages;
mod streams;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use touchline_compute::gpu::context;
use touchline_core::observer::{DeviceFault, Observer, Stage};

/// Measures a GPU, and compares its results with the CPU's.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Number of the GPU.
    #[arg(long, global = true, default_value_t = 0)]
    device: usize,
    /// Packs to run.
    #[arg(long, global = true, value_name = "DIR", default_values = ["weights/compact", "weights/reference"])]
    pack: Vec<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Compares features and scores of the GPU with those of the CPU.
    Parity,
    /// Time of each stage by batch, beside its floor.
    Stages,
    /// How many streams one GPU can watch.
    Streams,
}

/// Ignores the engine's reports: the bench measures from outside.
struct Unobserved;

impl Observer for Unobserved {
    fn observe_stage(&self, _stage: Stage, _ns: u64) {}

    fn device_fault(&self, _fault: DeviceFault) {}
}

/// A result whose error is printed and ends the program.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("touchline-gpu-bench: {}", e.to_string().lines().next().unwrap_or_default());
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Outcome<bool> {
    let gpus = context::all()?;
    let Some(gpu) = gpus.iter().find(|gpu| gpu.ordinal == cli.device) else {
        return Err(format!(
            "there is no GPU {}; the driver lists {} GPU(s); choose one with --device",
            cli.device,
            gpus.len()
        )
        .into());
    };
    let ((driver, minor), (nvrtc, nvrtc_minor)) = (context::driver_version()?, context::compiler_version()?);
    println!(
        "\ncuda:{} {}, compute capability {}.{}, {:.0} GiB; driver for CUDA {driver}.{minor}, NVRTC {nvrtc}.{nvrtc_minor}\n",
        gpu.ordinal,
        gpu.name,
        gpu.capability.0,
        gpu.capability.1,
        gpu.memory as f64 / f64::from(1 << 30)
    );
    match cli.command {
        Command::Parity => parity::run(cli.device, &cli.pack),
        Command::Stages => stages::run(cli.device, &cli.pack).map(|()| true),
        Command::Streams => streams::run(cli.device, &cli.pack).map(|()| true),
    }
}
