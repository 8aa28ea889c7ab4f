//! `touchline stream`: the streams of a fleet.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::fleet_args::FleetLogin;
use super::print;
use super::run::split_name;
use touchline_core::error::{Error, Result};
use touchline_core::redact;
use touchline_serve::config::{self, free_id, stream_id};
use touchline_serve::control::streams::NewStream;
use touchline_serve::fleet::view::FleetView;
use touchline_serve::fleet::{FleetAdmin, NodeState, StreamRecord};

/// What a stream costs by its tier, in thousandths of a processor core (deploy/SCALING.md).
const COSTS: [(&str, u32); 2] = [("sparse", 75), ("key", 25)];
const COST: u32 = 180;

#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  touchline stream add court1=rtsp://camera.example/live --fleet nats://nats.example:4222
  touchline stream add court2=https://tv.example/live.m3u8 --set tier=sparse --needs site=oslo
  touchline stream list --json
  touchline stream move court1 node-b
  touchline stream drain node-a

The address of the fleet can be in TOUCHLINE_FLEET, and its name in TOUCHLINE_FLEET_NAME.")]
pub struct StreamArgs {
    #[command(flatten)]
    fleet: FleetLogin,
    #[command(subcommand)]
    command: StreamCommand,
}

#[derive(Debug, Subcommand)]
enum StreamCommand {
    /// Add a stream. One of the machines watches it from then on.
    Add(AddArgs),
    /// List the streams with the machines that watch them, and the machines.
    List {
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Remove a stream.
    Remove {
        #[arg(value_name = "NAME")]
        id: String,
    },
    /// Move a stream to another machine. It publishes from the second at which the other one takes over, and no second is lost.
    Move {
        #[arg(value_name = "NAME")]
        id: String,
        #[arg(value_name = "NODE")]
        node: String,
    },
    /// Hand all streams of a machine over to others. The machine leaves the fleet, and can be stopped without losing a second.
    Drain {
        #[arg(value_name = "NODE")]
        node: String,
    },
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The stream, as for `touchline run`. Without a name it gets one from its address.
    #[arg(value_name = "[NAME=]URI")]
    stream: String,
    /// A key of [[stream]] and its value, as in label=Court or latency_ms=500. Can be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,
    /// Cost of watching it, in thousandths of a processor core [default: 180, with tier sparse 75, with tier key 25].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    cost: Option<u32>,
    /// Labels that a machine must have to watch it, separated by commas.
    #[arg(long, value_name = "NAME=VALUE,…", value_delimiter = ',')]
    needs: Vec<String>,
    /// Replace a stream of that name.
    #[arg(long)]
    replace: bool,
}

/// A connection to the fleet of flags and environment, with its name.
pub fn admin(login: &FleetLogin) -> Result<(FleetAdmin, String)> {
    let fleet = login.settings()?;
    Ok((FleetAdmin::connect(&fleet)?, fleet.name))
}

pub fn stream(args: StreamArgs) -> Result<()> {
    let fleet = args.fleet.settings()?;
    let known = |id: &str| stream_id(id).map_err(Error::Usage);
    match args.command {
        StreamCommand::Add(add) => {
            let (id, stream) = new_stream(&add)?;
            FleetAdmin::connect(&fleet)?.add(&id, &stream, add.replace)?;
            print(&format!("stream {id} is added to the fleet {}\n", fleet.name))
        }
        StreamCommand::List { json } => {
            let view = FleetAdmin::connect(&fleet)?.view()?;
            let text = if json { format!("{}\n", json_of(&view)) } else { table(&view) };
            print(&text)
        }
        StreamCommand::Remove { id } => {
            known(&id)?;
            FleetAdmin::connect(&fleet)?.remove(&id)?;
            print(&format!("stream {id} is removed\n"))
        }
        StreamCommand::Move { id, node } => {
            known(&id)?;
            FleetAdmin::connect(&fleet)?.move_to(&id, &node)?;
            print(&format!("stream {id} moves to {node}; `touchline stream list` shows when it is there\n"))
        }
        StreamCommand::Drain { node } => {
            FleetAdmin::connect(&fleet)?.drain(&node)?;
            print(&format!("{node} hands its streams over; `touchline stream list` shows when it is gone\n"))
        }
    }
}

/// A setting of a stream: `KEY=VALUE`, with a JSON value or text.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, as in label=Court")?;
    Ok((key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Value::from(value))))
}

fn new_stream(add: &AddArgs) -> Result<(String, StreamRecord)> {
    let (name, uri) = split_name(&add.stream);
    let id = name.map_or_else(|| free_id(uri, |_| false), str::to_owned);
    let mut settings = Map::from_iter([("uri".to_owned(), Value::from(uri))]);
    settings.extend(add.settings.iter().cloned());
    settings.insert("id".into(), Value::from(id.as_str()));
    let settings = Value::Object(settings);
    let usage = |e: String| Error::Usage(redact::text(&e));
    let new: NewStream = serde_json::from_value(settings.clone()).map_err(|e| usage(format!("stream {id:?}: {e}")))?;
    new.check().map_err(|e| usage(e.to_string()))?;
    touchline_media::uri::Location::parse(new.uri())?;
    let of_tier = COSTS.iter().find(|(tier, _)| settings["tier"] == *tier).map_or(COST, |(_, cost)| *cost);
    let needs = config::labels(&add.needs).map_err(Error::Usage)?;
    Ok((id, StreamRecord { cost: add.cost.unwrap_or(of_tier), needs, settings }))
}

fn json_of(view: &FleetView) -> String {
    let mut view = serde_json::to_value(view).expect("the view is a struct with string keys");
    if let Some(keys) = view.as_object_mut() {
        // These are facts about a machine's own process.
        keys.retain(|key, _| !["node", "may_publish", "problem", "rollout"].contains(&key.as_str()));
    }
    format!("{view:#}")
}

fn table(view: &FleetView) -> String {
    let mut text = String::new();
    let width = |least: usize, names: &mut dyn Iterator<Item = usize>| names.fold(least, usize::max) + 2;
    let ids = width(6, &mut view.streams.iter().map(|stream| stream.id.len()));
    let nodes = width(4, &mut view.nodes.iter().map(|node| node.name.len()));
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:<ids$}{:<nodes$}{:>6}  {:>6}  SOURCE", "STREAM", "NODE", "EPOCH", "COST");
    for stream in &view.streams {
        let node = stream.node.as_deref().unwrap_or("-");
        let moving = stream.next.as_ref().map_or(String::new(), |next| format!("  (moves to {next})"));
        let (id, epoch, cost, uri) = (&stream.id, stream.epoch, stream.cost, &stream.uri);
        let _ = writeln!(text, "{id:<ids$}{node:<nodes$}{epoch:>6}  {cost:>6}  {uri}{moving}");
    }
    let _ = writeln!(text, "\n{:<nodes$}{:<10}{:>8}  {:>13}  LABELS", "NODE", "STATE", "STREAMS", "LOAD");
    for node in &view.nodes {
        let state = match node.state {
            NodeState::Active => "active",
            NodeState::Draining => "draining",
            NodeState::Gone => "gone",
        };
        let labels = node.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
        let load = format!("{}/{}", node.load, node.capacity);
        let _ = writeln!(text, "{:<nodes$}{state:<10}{:>8}  {load:>13}  {labels}", node.name, node.streams);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(stream: &str, settings: &[&str]) -> Result<(String, StreamRecord)> {
        let settings = settings.iter().map(|text| setting(text).unwrap()).collect();
        new_stream(&AddArgs {
            stream: stream.into(),
            settings,
            cost: None,
            needs: vec!["gpu=true".into()],
            replace: false,
        })
    }

    #[test]
    fn a_stream_has_the_keys_of_the_file_and_a_cost_by_its_tier() {
        let (id, record) = add("court=rtsp://cam/live", &["tier=sparse", "latency_ms=500", "label=Court 1"]).unwrap();
        assert_eq!((id.as_str(), record.cost, record.needs["gpu"].as_str()), ("court", 75, "true"));
        assert_eq!(record.settings["latency_ms"], 500);
        assert_eq!(record.settings["label"], "Court 1");
        assert_eq!(add("rtsp://cam/live", &[]).unwrap().0, "cam");
        for (settings, words) in [
            ("colour=red", "unknown field `colour`"),
            ("pipeline=x", "unknown field `pipeline`"),
            ("tier=none", "unknown variant `none`"),
            ("latency_ms=-1", "0 to 60000"),
        ] {
            let refused = add("court=rtsp://cam/live", &[settings]).unwrap_err().to_string();
            assert!(refused.contains(words), "{settings}: {refused}");
        }
        assert!(add("court=rtsp://ann:pl4nt@[", &[]).is_err_and(|e| !e.to_string().contains("pl4nt")));
    }
}
