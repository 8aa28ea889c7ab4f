//! What people and programs see: the page, the API, JSONL, events.
