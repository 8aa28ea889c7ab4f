//! A fault bench: servers and senders on this machine that die, stall, jump in time, change their size, lose a track, send garbage
//! or answer slowly. The tests check the source's reaction, up to the seconds to be classified.

mod clock;
mod hls;
mod listener;
mod network;
mod rtsp;
mod ts;
