//! `touchline pack publish|list|remove|rollout`: packs of a fleet.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::fleet_args::FleetLogin;
use crate::cli::print;
use crate::cli::stream::admin;
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::error::Result;
use touchline_serve::fleet::rollout::{PackStep, RolloutRules, RolloutStage};
use touchline_serve::fleet::view::{FleetView, RolloutView};
use touchline_serve::fleet::{FleetAdmin, short};

#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  touchline pack publish packs/autumn --fleet nats://nats.example:4222
  touchline pack rollout start autumn --canary node-a

Publishing puts the files of the pack into the object store of the fleet, under their SHA-256. It changes no machine.")]
pub struct PublishArgs {
    /// The directory of the pack.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    fleet: FleetLogin,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print one JSON array instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    fleet: FleetLogin,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Its name, or the beginning of its digest.
    #[arg(value_name = "PACK")]
    pack: String,
    #[command(flatten)]
    fleet: FleetLogin,
}

#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  touchline pack rollout start autumn --fleet nats://nats.example:4222
  touchline pack rollout start autumn --canary node-a --agreement 0.98 --seconds 3600 --watch-s 120
  touchline pack rollout status
  touchline pack rollout halt

The canary runs the pack as shadow and compares it with the running one. If they agree on enough seconds, the canary takes the pack, and
then one machine after another, each of which is watched for a while. Anything else halts the rollout, and all machines run the former
pack. The address of the fleet can be in TOUCHLINE_FLEET.")]
pub struct RolloutArgs {
    #[command(flatten)]
    fleet: FleetLogin,
    #[command(subcommand)]
    command: RolloutCommand,
}

#[derive(Debug, Subcommand)]
enum RolloutCommand {
    /// Start the rollout of a published pack.
    Start(StartArgs),
    /// Show the last rollout, and the pack of each machine.
    Status {
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Halt the rollout. All machines run the former pack again.
    Halt,
    /// Forget a rollout that was halted: the page and the alert do not mention it any more.
    Forget,
}

#[derive(Debug, Args)]
struct StartArgs {
    /// Its name, or the beginning of its digest.
    #[arg(value_name = "PACK")]
    pack: String,
    /// The machine that compares the pack, and takes it first [default: the one that watches most streams].
    #[arg(long, value_name = "NODE")]
    canary: Option<String>,
    /// Share of the compared seconds on which both packs must have the same label, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, value_parser = share)]
    agreement: f64,
    /// Seconds of streams that the canary compares, 10 to 1000000. Two streams have two in each second.
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    seconds: u32,
    /// How long each machine is watched after it has taken the pack, 1 to 86400 seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    watch_s: u32,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "give a share from 0 to 1, as in 0.95".to_owned())
}

pub fn publish(args: &PublishArgs) -> Result<()> {
    let (fleet, name) = admin(&args.fleet)?;
    let pack = fleet.publish(&args.dir)?;
    let (known, digest) = (&pack.name, &pack.digest);
    let next = format!("touchline pack rollout start {}", short(digest));
    print(&format!(
        "pack {known} is in the object store of the fleet {name}: {digest}\n`{next}` brings it to the machines\n"
    ))
}

pub fn list(args: &ListArgs) -> Result<()> {
    let (fleet, _) = admin(&args.fleet)?;
    let packs = fleet.packs()?;
    if args.json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&packs).expect("structs with string keys")));
    }
    let view = fleet.view()?;
    let current = view.rollout.as_ref().and_then(current);
    let width = packs.iter().map(|pack| pack.name.len()).fold(4, usize::max) + 2;
    let mut text = format!("{:<width$}DIGEST\n", "PACK");
    for pack in &packs {
        let is_current = current.as_ref() == Some(&pack.digest);
        let note = if is_current { "  (the fleet's)" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<width$}{}{note}", pack.name, short(&pack.digest));
    }
    print(&text)
}

/// The digest of the pack of the fleet.
fn current(rollout: &RolloutView) -> Option<String> {
    let pack = if rollout.stage == RolloutStage::Done { Some(&rollout.pack) } else { rollout.former.as_ref() };
    pack.map(|pack| pack.digest.clone())
}

pub fn remove(args: &RemoveArgs) -> Result<()> {
    let (fleet, _) = admin(&args.fleet)?;
    let pack = fleet.unpublish(&args.pack)?;
    print(&format!("pack {} is removed from the object store\n", pack.name))
}

pub fn rollout(args: &RolloutArgs) -> Result<()> {
    let (fleet, _) = admin(&args.fleet)?;
    match &args.command {
        RolloutCommand::Start(start) => begin(&fleet, start),
        RolloutCommand::Status { json } => {
            let view = fleet.view()?;
            let text = if *json { format!("{:#}\n", status_json(&view)) } else { status(&view) };
            print(&text)
        }
        RolloutCommand::Halt => {
            fleet.halt(SystemClock::new().unix_ns())?;
            print("the rollout is halted; all machines run the former pack again\n")
        }
        RolloutCommand::Forget => {
            fleet.forget_halted()?;
            print("the halted rollout is forgotten\n")
        }
    }
}

fn begin(fleet: &FleetAdmin, start: &StartArgs) -> Result<()> {
    let rules = RolloutRules { agreement: start.agreement, seconds: start.seconds, watch_s: start.watch_s };
    let rollout = fleet.roll_out(&start.pack, start.canary.as_deref(), rules)?;
    let canary = &rollout.canary.node;
    print(&format!(
        "pack {} is compared on {canary}; `touchline pack rollout status` shows how far it is\n",
        rollout.pack.name
    ))
}

fn status_json(view: &FleetView) -> serde_json::Value {
    let nodes: serde_json::Map<String, serde_json::Value> =
        view.nodes.iter().map(|node| (node.name.clone(), serde_json::json!(node.pack))).collect();
    serde_json::json!({ "rollout": view.rollout, "nodes": nodes })
}

fn status(view: &FleetView) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    match &view.rollout {
        None => text.push_str("no pack was ever rolled out; each machine has its own\n"),
        Some(rollout) => {
            let RolloutView { pack, former, stage, canary, rules, .. } = rollout;
            let former = former.as_ref().map_or("each machine's own".to_owned(), |former| {
                format!("{} ({})", former.name, short(&former.digest))
            });
            let _ = writeln!(text, "pack       {} ({})", pack.name, short(&pack.digest));
            let _ = writeln!(text, "former     {former}");
            let _ = writeln!(text, "stage      {}", stage.as_str());
            let compared = rollout.compared.map_or(String::new(), |compared| {
                let share = compared.agreement().map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0));
                format!(": {share} of {} seconds agree", compared.seconds)
            });
            let least = rules.agreement * 100.0;
            let _ = writeln!(text, "canary     {canary}{compared} (at least {least:.1} % of {})", rules.seconds);
            if let Some(turn) = &rollout.turn {
                let _ = writeln!(text, "now        {turn}");
            }
            if let Some(halt) = &rollout.halt {
                let at = halt.node.as_ref().map_or(String::new(), |node| format!(" on {node}"));
                let _ = writeln!(text, "halted     {}{at}: {}", halt.reason.as_str(), halt.text);
            }
            for step in &rollout.log {
                let _ = writeln!(text, "           {}  {}", step.at, step.text);
            }
        }
    }
    let width = view.nodes.iter().map(|node| node.name.len()).fold(4, usize::max) + 2;
    let _ = writeln!(text, "\n{:<width$}{:<14}STATE", "NODE", "PACK");
    for node in &view.nodes {
        let Some(pack) = &node.pack else { continue };
        let digest = pack.digest.as_deref().map_or("its own", short);
        let step = match pack.step {
            PackStep::Settled => "settled",
            PackStep::Changing => "changing",
            PackStep::Comparing => "comparing",
            PackStep::Watched => "watched",
            PackStep::Failed => "failed",
        };
        let problem = pack.problem.as_ref().map_or(String::new(), |problem| format!(": {problem}"));
        let _ = writeln!(text, "{:<width$}{digest:<14}{step}{problem}", node.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_between_0_and_1() {
        assert_eq!(share("0.95"), Ok(0.95));
        assert!(share("1.1").is_err() && share("95%").is_err() && share("NaN").is_err());
    }
}
