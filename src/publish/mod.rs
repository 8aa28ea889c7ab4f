//! What people and programs see: the page, the API, JSONL, events.

pub mod format;
pub mod record;
#[cfg(test)]
mod testing;
