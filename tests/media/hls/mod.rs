//! HLS as the field serves it, against servers of these tests: every second of the material is decided once or is one counted
//! gap, or the message says what is wrong.
//!
//! A table has one row a case. `TOUCHLINE_HLS_CASE=NAME` plays only the cases with that in their names.

mod case;
mod channel;
mod discontinuities;
mod endless;
mod field;
mod keys;
mod list;
mod live;
mod lost;
mod malformed;
mod marks;
mod material;
mod play;
mod property;
mod recordings;
mod server;
mod variants;
mod web;
