//! The server: every thread and channel of the running program, the stream manager, the backlog, the store, the
//! metrics, the page and the API.
//!
//! A room imports only rooms that precede it in this table; `tests/layout` keeps the order.
//!
//! | room | contents |
//! |---|---|
//! | `nearest` | which known name a misspelt one may mean |
//! | [`schedule`] | what is expected on a stream, and when: iCalendar and CSV |
//! | [`config`] | settings: one raw form, its sources, defaults, bounds and schema |
//! | `connect` | connections to servers outside the program: TLS, logins |
//! | [`metrics`] | counters and gauges for Prometheus |
//! | [`backlog`], [`relief`], [`frame_share`] | seconds that wait for inference; what is given up under load |
//! | [`clips`] | event clips on disk: names, sidecars, retention |
//! | [`record`] | records: their types, schema and serialisation |
//! | [`control`] | requests to change packs and streams, and their status |
//! | [`sink`] | the contract of sinks; JSON lines and the terminal |
//! | [`hub`] | the current state of every stream, and its subscribers |
//! | [`export`] | segments as files for edit suites, players and people |
//! | [`teach`] | what people say that seconds show, and what a pack learns from it |
//! | [`http`] | the HTTP server: access, routes, page, preview |
//! | [`fleet`] | machines that share streams: the protocol, its store in NATS, its thread |
//! | [`live`] | the publisher's state of one stream: its vote, its events, its segments |
//! | [`store`] | SQLite: streams, runs, history |
//! | [`deliver`] | the sinks of `[[sink]]`: webhooks, MQTT, NATS, Kafka, commands |
//! | [`shadow`] | a second pack that scores the same seconds |
//! | [`recording`] | the sink that cuts event clips from the ring |
//! | [`outputs`] | the sink that feeds live pictures with labels |
//! | [`workers`] | the threads of the clip builder and of inference |
//! | [`update`] | swaps the pack |
//! | [`archive`] | recordings that the machines of a fleet score |
//! | [`run`] | starts and ends all of them; the stream manager and the publisher |

#![deny(missing_docs)]

pub mod archive;
pub mod backlog;
pub mod clips;
pub mod config;
mod connect;
pub mod control;
pub mod deliver;
pub mod export;
pub mod fleet;
pub mod frame_share;
pub mod http;
pub mod hub;
pub mod live;
pub mod metrics;
mod nearest;
pub mod outputs;
pub mod record;
pub mod recording;
pub mod relief;
pub mod run;
pub mod schedule;
pub mod shadow;
pub mod sink;
pub mod store;
pub mod teach;
pub mod update;
pub mod workers;

#[cfg(test)]
#[path = "../../tests/common/skip.rs"]
mod skip;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
#[path = "../../tests/common/wait.rs"]
mod wait;
