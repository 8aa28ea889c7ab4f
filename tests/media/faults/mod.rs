//! A fault bench: servers and senders on this machine that die, stall, jump, change their size, lose a track, send garbage
//! and dawdle, and what is made of that, up to the seconds that would be classified.

mod clock;
mod hls;
mod listener;
mod network;
mod rtsp;
mod ts;

use std::time::Duration;

/// No single wait is longer.
const PATIENCE: Duration = Duration::from_secs(25);
