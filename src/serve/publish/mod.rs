//! Outputs: records and their hub, the HTTP server with access, page and API, exports, and the sinks JSON lines and terminal.

pub mod access;
mod agreement;
mod answer;
mod app_state;
mod clip_routes;
mod config_status;
pub mod export;
mod export_routes;
pub mod format;
pub mod http;
pub mod hub;
pub mod jsonl;
mod kept;
mod live_routes;
pub mod notice;
mod openapi;
pub mod output;
mod pack_routes;
pub mod pack_view;
pub mod packs;
mod page;
mod past;
mod preview;
mod preview_routes;
pub mod record;
pub mod record_reader;
mod record_types;
mod segment_record;
pub mod serve;
pub mod sink;
mod state;
mod stream_routes;
pub mod streams;
pub mod terminal;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;

/// For the fuzz targets: reads a request as the routes do, headers first.
#[cfg(fuzzing)]
pub fn fuzz_request(kind: &str, origin: &str, host: &str, body: &[u8]) {
    use axum::http::{HeaderMap, HeaderValue, header};
    let mut headers = HeaderMap::new();
    for (name, text) in
        [(header::CONTENT_TYPE, kind), (header::ORIGIN, origin), (header::HOST, host), (header::IF_MATCH, host)]
    {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    access::fuzz_origin(&headers);
    let _ = access::parse_login(body);
    pack_routes::fuzz_wanted(&headers, body);
    stream_routes::fuzz_parse(&headers, body);
}
