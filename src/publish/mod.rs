//! What people and programs see: the page, the API, JSONL, events.

pub mod access;
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
pub mod serve;
mod state;
pub mod terminal;
#[cfg(test)]
mod testing;
pub mod tls;
