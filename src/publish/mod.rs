//! What people and programs see: the page, the API, JSONL, events.

mod agreement;
pub mod format;
pub mod http;
pub mod hub;
pub mod jsonl;
mod pack_routes;
pub mod pack_view;
pub mod packs;
mod page;
mod preview;
pub mod record;
mod state;
mod stream_routes;
pub mod streams;
pub mod terminal;
#[cfg(test)]
mod testing;
