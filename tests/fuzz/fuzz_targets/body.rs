//! Bodies of requests, and headers that are read before them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (&str, &str, &str, &[u8])| {
    touchline_serve::http::fuzz_request(parts.0, parts.1, parts.2, parts.3);
});
