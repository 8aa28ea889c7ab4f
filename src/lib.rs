//! Touchline watches live sports broadcasts and says every second which sport is on, with a probability per class, from
//! three views of that second: the pictures, the motion between them, and the sound.
//!
//! ```text
//!  source threads           thread clip/<id>           thread infer                 publishing thread        tokio
//!  appsink video ─ Frame ─┐                                                                             ┌─► page, API, SSE
//!                         ├─ ClipBuilder ─ ClipSecond ─► Backlog ─► features ─► models ─► table ─► vote ─► JSONL, terminal
//!  appsink audio ─ Pcm ───┘   (by PTS)      a second     sheds      flow·mel    logits             estimate   metrics
//!         ▲────────────── empty buffers go back to their pool ──────────────┘
//! ```
//!
//! One way, by value. Only shutdown and empty buffers travel upstream; ends travel in-band. [`app`] wires it, [`ingest`]
//! brings media, [`clip`] cuts seconds, [`features`] and [`models`] look at them, [`fusion`] and [`vote`] decide,
//! [`publish`] shows it. [`learn`] makes the packs that [`infer`] runs.

pub mod adapt;
pub mod app;
pub mod backlog;
#[cfg(feature = "gst")]
pub mod cli;
pub mod clip;
pub mod clock;
pub mod config;
pub mod decision;
pub mod error;
pub mod features;
pub mod fusion;
pub mod gpu;
pub mod infer;
pub mod ingest;
pub mod labels;
pub mod learn;
mod limits;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod publish;
pub mod redact;
pub mod shadow;
pub mod store;
mod threads;
pub mod time;
pub mod update;
mod userinfo;
pub mod vote;

#[cfg(test)]
#[path = "../tests/common/skip.rs"]
mod skip;
