//! Table and property tests of the clip builder. Not of decoding: frames are one pixel, sound is computed.

mod frames;
mod jumps;
mod random;
mod sound;
mod support;
mod tracks;
mod week;
