//! Table and property tests of the clip builder. Nothing is decoded: frames have one pixel, and sound is computed.

mod frames;
mod jumps;
mod random;
mod sound;
mod support;
mod tracks;
mod week;
