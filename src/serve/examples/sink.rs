//! A sink of your own: prints the events of a recording as CSV.
//!
//! ```sh
//! cargo run --release -p touchline-serve --example sink -- match.mp4
//! ```
//!
//! The sink gets a thread and a bounded queue of its own. `take` may block; that does not delay other outputs.

use serde_json::Value;
use touchline_compute::features::signal::SignalConfig;
use touchline_compute::models::pack::Pack;
use touchline_core::error::{Error, Result};
use touchline_core::vote::VoteConfig;
use touchline_media::guard::SourcesFile;
use touchline_serve::config::{
    self, Fixed, HistorySettings, LatencyMs, Listen, MaxStreams, OverlaySettings, StreamFile,
};
use touchline_serve::hub::StreamOwner;
use touchline_serve::run::{AccessSettings, RunConfig, run_with_sinks};
use touchline_serve::sink::{Item, Sink};
use touchline_serve::workers::Batching;

struct EventsAsCsv;

impl Sink for EventsAsCsv {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn take(&mut self, item: &Item) -> u64 {
        for record in &item.records {
            // `/api/v1/schema` describes the records.
            let Ok(record) = serde_json::from_str::<Value>(&record.json) else { return 1 };
            if record["type"] == "event" {
                let [second, kind, class] = ["index", "kind", "class"].map(|key| &record[key]);
                println!("{second},{kind},{class},{}", record["probability"]);
            }
        }
        0
    }

    fn finish(&mut self) {
        eprintln!("end of the recording");
    }
}

fn main() -> Result<()> {
    let uri = std::env::args().nth(1).ok_or_else(|| Error::Usage("give the path of a recording".into()))?;
    let streams = config::streams(vec![StreamFile { uri, ..StreamFile::default() }])?;
    let config = RunConfig {
        pack: Pack::open(&config::find_pack(None)?)?,
        shadow: None,
        pack_root: None,
        watch_pack: false,
        streams: streams.into_iter().map(|stream| (stream, StreamOwner::CommandLine)).collect(),
        sources: SourcesFile::default(),
        vote: VoteConfig::default(),
        fixed: Fixed::default(),
        reader: None,
        listen: Listen::Off,
        time_zone: None,
        notice: None,
        access: AccessSettings::default(),
        record: None,
        teach: None,
        fleet: None,
        overlay: OverlaySettings::default(),
        jsonl: None,
        jsonl_kinds: None,
        instance: None,
        sinks: Vec::new(),
        state: None,
        history: HistorySettings::default(),
        signals: SignalConfig::default(),
        max_streams: MaxStreams::of::<1>(),
        latency_ms: LatencyMs::of::<200>(),
        batching: Batching::default(),
        realtime: false,
        retry: false,
        linger: false,
        quiet: true,
    };
    println!("second,kind,class,probability");
    run_with_sinks(config, vec![Box::new(EventsAsCsv)])
}
