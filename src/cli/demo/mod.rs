//! `touchline demo`: two channels that the program draws, the pack that classifies them, and the page.

mod canvas;
mod channel;
mod people;
mod scenes;
mod scorecard;

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use clap::{Args, Parser};

use super::run::{RunArgs, run_with};
use channel::{Channels, DEMO};
use scorecard::Scorecard;
use touchline_compute::models::pack::Pack;
use touchline_core::error::{Error, Result};
use touchline_media::registry::register;
use touchline_serve::config;

/// Ids of the streams. The number of their channel follows.
const STREAMS: [&str; 2] = ["drawn-1", "drawn-2"];

#[derive(Debug, Args)]
#[command(
    after_long_help = "The scenes change every 20 seconds: tennis, soccer, basketball, ice hockey, swimming, athletics, a studio, and colour \
bars. The decisions are real: nothing was trained on drawn scenes, so some are wrong. The terminal and the page say how many were right. \
Ctrl-C ends it."
)]
pub struct DemoArgs {
    /// Address of the page.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", env = "TOUCHLINE_LISTEN")]
    listen: String,
    /// Directory of the model pack [default: weights/compact].
    #[arg(long, value_name = "DIR", env = "TOUCHLINE_PACK")]
    pack: Option<std::path::PathBuf>,
}

/// The settings of the run.
#[derive(Debug, Parser)]
struct DemoRun {
    #[command(flatten)]
    run: RunArgs,
}

pub fn demo(args: &DemoArgs) -> Result<()> {
    register(DEMO, |setup| Ok(Arc::new(Channels(setup.clone()))))?;
    let pack = config::find_pack(args.pack.as_deref())?;
    let classes = Pack::open(&pack)?.classes;
    let mut flags = vec![
        "demo".to_owned(),
        "--quiet".to_owned(),
        "--allow-anonymous".to_owned(),
        "--listen".to_owned(),
        args.listen.clone(),
    ];
    flags.extend(["--pack".to_owned(), pack.display().to_string()]);
    flags.extend(STREAMS.iter().enumerate().map(|(channel, id)| format!("{id}=demo://{channel}")));
    let settings = DemoRun::try_parse_from(flags).map_err(|e| Error::Usage(e.to_string()))?;
    let _ = writeln!(
        std::io::stdout(),
        "Two channels of drawn scenes. The page: http://{}  (Ctrl-C ends the demonstration)",
        args.listen
    );
    let notice = scorecard::notice();
    let channels = STREAMS.iter().enumerate().map(|(channel, id)| (Arc::from(*id), channel)).collect::<HashMap<_, _>>();
    let scorecard = Scorecard::new(classes, channels, notice.clone());
    let ended = run_with(&settings.run, Some(notice), vec![Box::new(scorecard)]);
    let _ = writeln!(
        std::io::stdout(),
        "\nYour own material:\n  touchline run rtsp://camera.example/live          a stream\n  touchline score recordings/ --summary labels.csv  a folder\n  touchline run --help                              all settings; the guide is deploy/OPERATING.md"
    );
    ended
}
