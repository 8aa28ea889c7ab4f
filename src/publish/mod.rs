//! What people and programs see: the page, the API, JSONL, events.

pub mod format;
pub mod http;
pub mod hub;
pub mod jsonl;
mod page;
mod preview;
pub mod record;
pub mod terminal;
#[cfg(test)]
mod testing;
