//! What a GPU does with Touchline's work: whether it computes the same, and how fast. Needs no GStreamer.
//!
//! ```sh
//! cargo build --release --locked --no-default-features --features cuda --bin touchline-gpu-bench
//! touchline-gpu-bench parity  [--device 0]                 exit code 1 if anything differs from the CPU by too much
//! touchline-gpu-bench stages  [--device 0] [--pack DIR]    time of each stage by batch, beside its floor
//! touchline-gpu-bench streams [--device 0] [--pack DIR]    streams at a p95 of the decision latency below 250 ms
//! ```
//!
//! Tables come out as Markdown. `deploy/gpu-check.sh` runs all of it, with the peers.

mod ceilings;
mod material;
mod parity;
mod stages;
mod streams;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use touchline_compute::gpu::context;

/// Measures a GPU, and compares what it computes with the CPU.
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
    /// Features and scores of the GPU against those of the CPU.
    Parity,
    /// Time of each stage by batch, beside its floor.
    Stages,
    /// Streams that one GPU watches.
    Streams,
}

/// What may go wrong here, in words.
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
        return Err(format!("there is no GPU {}; the driver lists {}", cli.device, gpus.len()).into());
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
