//! HLS as servers in the field deliver it. Every second of the material is decided once or is one counted gap, or the source fails
//! with a message that names the problem.
//!
//! Each test has a table of cases. `TOUCHLINE_HLS_CASE=NAME` plays only the cases whose names contain it.

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
