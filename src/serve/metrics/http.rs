//! Refused requests and open connections of the HTTP server.

use prometheus::{IntCounter, IntGauge, Registry};

use super::Metrics;
use super::families::{counters, int_gauges};

/// Why a request or a connection was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpRefusal {
    /// No token where one is needed, or a wrong one.
    Unauthorized,
    /// The role does not permit it, or the request comes from another site's page.
    Forbidden,
    /// Too many wrong tokens from that address.
    Throttled,
    /// The body is too long or does not arrive.
    Body,
    /// Too many connections.
    Connections,
    /// The headers of a request do not arrive, or an idle connection.
    SlowRequest,
    /// The client does not read its answer.
    SlowReader,
    /// The TLS handshake failed.
    Tls,
}

impl HttpRefusal {
    /// In the order of the variants.
    pub const ALL: [HttpRefusal; 8] = [
        HttpRefusal::Unauthorized,
        HttpRefusal::Forbidden,
        HttpRefusal::Throttled,
        HttpRefusal::Body,
        HttpRefusal::Connections,
        HttpRefusal::SlowRequest,
        HttpRefusal::SlowReader,
        HttpRefusal::Tls,
    ];

    /// Value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            HttpRefusal::Unauthorized => "unauthorized",
            HttpRefusal::Forbidden => "forbidden",
            HttpRefusal::Throttled => "throttled",
            HttpRefusal::Body => "body",
            HttpRefusal::Connections => "connections",
            HttpRefusal::SlowRequest => "slow_request",
            HttpRefusal::SlowReader => "slow_reader",
            HttpRefusal::Tls => "tls",
        }
    }
}

impl Metrics {
    /// Counts a refusal.
    pub fn http_refused(&self, refusal: HttpRefusal) {
        self.families.http_refused[refusal as usize].inc();
    }

    /// Adds `by` connections, or removes them if it is negative.
    pub fn http_connections(&self, by: i64) {
        self.families.http_connections.add(by);
    }

    /// Counts a thumbnail that was encoded.
    pub fn thumbnail_encoded(&self) {
        self.families.thumbnails.inc();
    }
}

pub(super) fn refusals(registry: &Registry) -> Vec<IntCounter> {
    let help = "Requests and connections that the HTTP server refused or closed, by reason.";
    let family = counters(registry, "touchline_http_refused_total", help, &["reason"]);
    HttpRefusal::ALL.iter().map(|r| family.with_label_values(&[r.as_str()])).collect()
}

pub(super) fn connections(registry: &Registry) -> IntGauge {
    let help = "Open connections to the HTTP server.";
    int_gauges(registry, "touchline_http_connections", help, &[]).with_label_values::<&str>(&[])
}

pub(super) fn thumbnails(registry: &Registry) -> IntCounter {
    let help =
        "Pictures encoded for walls: at most one a second for each stream and size, and only while a wall is open.";
    counters(registry, "touchline_thumbnails_total", help, &[]).with_label_values::<&str>(&[])
}
