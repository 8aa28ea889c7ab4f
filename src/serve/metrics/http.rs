//! What the HTTP server refuses, and how many are connected.

use prometheus::{IntCounter, IntGauge, Registry};

use super::{Metrics, counters, int_gauges};

/// Why a request or a connection was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpRefusal {
    /// No token where one is needed, or a wrong one.
    Unauthorized,
    /// A role that may not do it, or another site's page.
    Forbidden,
    /// Too many wrong tokens from that address.
    Throttled,
    /// A body that is too long or does not arrive.
    Body,
    /// More connections than there is room for.
    Connections,
    /// A request whose headers do not arrive, a connection that says nothing.
    SlowRequest,
    /// A client that does not read what it is sent.
    SlowReader,
    /// A TLS handshake that failed.
    Tls,
}

impl HttpRefusal {
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
    /// A request or a connection was not served.
    pub fn http_refused(&self, refusal: HttpRefusal) {
        self.families.http_refused[refusal as usize].inc();
    }

    /// A connection was opened, or (`by` negative) ended.
    pub fn http_connections(&self, by: i64) {
        self.families.http_connections.add(by);
    }
}

pub(super) fn refusals(registry: &Registry) -> Vec<IntCounter> {
    let help = "Requests and connections that the HTTP server refused or let go, by reason.";
    let family = counters(registry, "touchline_http_refused_total", help, &["reason"]);
    HttpRefusal::ALL.iter().map(|r| family.with_label_values(&[r.as_str()])).collect()
}

pub(super) fn connections(registry: &Registry) -> IntGauge {
    let help = "Connections that are open to the HTTP server.";
    int_gauges(registry, "touchline_http_connections", help, &[]).with_label_values::<&str>(&[])
}
