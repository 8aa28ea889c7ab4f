//! Webhooks: a CloudEvent per request, signed as Standard Webhooks describes.
//!
//! `webhook-signature` is `v1,` and the HMAC-SHA256 of `ID.TIMESTAMP.BODY` in base64, one per key. The time stamp is that of the
//! attempt, so a receiver can refuse old requests; the id is that of the record, so it can ignore repetitions.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ring::hmac;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::timeout;
use url::Url;

use super::courier::Failure;
use super::envelope::{Envelope, MEDIA_TYPE};
use crate::config::SinkSettings;
use crate::connect::{causes, tls};
use touchline_core::clock::Clock;
use touchline_core::redact::MaskGuard;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// An answer is read up to here, so that its connection can be used again. Its content is not used.
const ANSWER_MAX: usize = 64 * 1024;

/// The shortest key, bytes, as Standard Webhooks recommends.
const KEY_MIN: usize = 24;

/// Prefix of a key in base64.
const KEY_PREFIX: &str = "whsec_";

pub(super) struct Webhook {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    keys: Vec<hmac::Key>,
    /// Value of the header `Authorization`.
    authorization: Option<HeaderValue>,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    _known: MaskGuard,
    _secrets: [crate::config::Secret; 2],
}

impl Webhook {
    /// # Errors
    /// Cause and advice for a key or a certificate that cannot be used.
    pub fn open(url: &Url, settings: &SinkSettings, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let secret = settings.secret.as_ref().map(|secret| secret.read()).transpose()?.unwrap_or_default();
        let keys = secret.lines.iter().map(|line| key(line)).collect::<Result<_, _>>()?;
        let token = settings.token.as_ref().map(|token| token.read()).transpose()?.unwrap_or_default();
        let authorization = token.lines.first().map(|token| bearer(token)).transpose()?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client(&settings.tls)?)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        let uri = url.as_str().parse().map_err(|e| format!("url: not a valid address: {e}; check it"))?;
        let known = touchline_core::redact::remember(url.as_str());
        let (timeout, _secrets) = (settings.timeout, [secret, token]);
        Ok(Self { client, uri, keys, authorization, timeout, clock, _known: known, _secrets })
    }

    /// Sends a record.
    pub async fn deliver(&self, envelope: &Envelope) -> Result<(), Failure> {
        let unix_s = self.clock.unix_ns().div_euclid(1_000_000_000);
        let mut request = Request::post(&self.uri)
            .header(header::CONTENT_TYPE, MEDIA_TYPE)
            .header(header::USER_AGENT, "touchline")
            .header("webhook-id", &envelope.id)
            .header("webhook-timestamp", unix_s);
        if !self.keys.is_empty() {
            request = request.header("webhook-signature", signatures(&self.keys, &envelope.id, unix_s, &envelope.json));
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = Full::new(Bytes::from(envelope.json.clone()));
        let request = request.body(body).map_err(|e| Failure::retry(format!("cannot form the request: {e}")))?;
        let answer = async {
            let answer = self.client.request(request).await.map_err(|e| Failure::retry(causes(&e)))?;
            let (head, body) = answer.into_parts();
            // The answer counts even if its body is cut off.
            let _ = Limited::new(body, ANSWER_MAX).collect().await;
            Ok(head)
        };
        let head = timeout(self.timeout, answer)
            .await
            .map_err(|_| Failure::retry(format!("no answer within {} s", self.timeout.as_secs())))??;
        outcome(head.status, &head.headers, unix_s)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "the token has characters that no header can have; check it".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

fn key(line: &str) -> Result<hmac::Key, String> {
    let bytes = match line.strip_prefix(KEY_PREFIX) {
        Some(text) => BASE64_STANDARD.decode(text).map_err(|_| {
            format!("the secret is not base64 after {KEY_PREFIX}; create one with `openssl rand -base64 32`")
        })?,
        None => line.as_bytes().to_vec(),
    };
    if bytes.len() < KEY_MIN {
        let advice = "create one with `openssl rand -hex 32`";
        return Err(format!("the secret is shorter than {KEY_MIN} bytes and can be guessed; {advice}"));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// A signature of each key, separated by spaces.
fn signatures(keys: &[hmac::Key], id: &str, unix_s: i64, body: &str) -> String {
    let text = format!("{id}.{unix_s}.{body}");
    let sign = |key| format!("v1,{}", BASE64_STANDARD.encode(hmac::sign(key, text.as_bytes())));
    keys.iter().map(sign).collect::<Vec<_>>().join(" ")
}

/// What an answer means.
fn outcome(status: StatusCode, headers: &HeaderMap, unix_s: i64) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let code = status.as_u16();
    if status.is_redirection() {
        return Err(Failure::retry(format!(
            "the receiver redirects ({code}), and redirects are not followed; give the final address"
        )));
    }
    // These are about the record. All others are about the receiver or the way to it, which a person or time repairs: no record
    // may be lost by an expired token.
    let is_of_record = matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY
    );
    if is_of_record {
        return Err(Failure::Refused { cause: format!("the receiver refuses it ({code})") });
    }
    let cause = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            format!("the receiver refuses the login ({code}); check token and secret, then send SIGHUP")
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE => {
            format!("the receiver takes no events at this path ({code}); check url")
        }
        _ => format!("the receiver does not accept it now ({code})"),
    };
    let after = headers.get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, unix_s));
    Err(Failure::Retry { cause, after })
}

/// Seconds, or a time.
fn retry_after(value: &str, unix_s: i64) -> Option<Duration> {
    let seconds = match value.trim().parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let at = OffsetDateTime::parse(value.trim(), &Rfc2822).ok()?;
            u64::try_from(at.unix_timestamp().saturating_sub(unix_s)).unwrap_or(0)
        }
    };
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        // The example of the specification's libraries.
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = signatures(&[key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn weak_keys_are_refused_without_showing_them() {
        for weak in ["pl4nt-short", "whsec_cGw0bnQ=", "whsec_pl4nt!"] {
            let text = key(weak).unwrap_err();
            assert!(text.contains("openssl rand") && !text.contains("pl4nt"), "{text}");
        }
    }

    #[test]
    fn answers_are_accepted_retried_or_refused() {
        let with = |status: u16, after: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.extend(after.map(|after| (header::RETRY_AFTER, after.parse().unwrap())));
            outcome(StatusCode::from_u16(status).unwrap(), &headers, 1_445_412_400)
        };
        for status in [200, 202, 204] {
            assert_eq!(with(status, None), Ok(()));
        }
        for status in [301, 307, 401, 403, 404, 405, 407, 408, 409, 410, 425, 429, 451, 500, 503] {
            assert!(matches!(with(status, None), Err(Failure::Retry { after: None, .. })), "{status}");
        }
        for (status, word) in [(401, "SIGHUP"), (403, "login"), (404, "url"), (410, "path"), (503, "now")] {
            let Err(Failure::Retry { cause, .. }) = with(status, None) else { panic!("{status}") };
            assert!(cause.contains(word) && cause.contains(&status.to_string()), "{cause}");
        }
        for status in [400, 413, 415, 422] {
            assert!(matches!(with(status, None), Err(Failure::Refused { .. })), "{status}");
        }
        for (text, seconds) in [
            ("120", Some(120)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(80)),
            ("Wed, 21 Oct 2015 07:00:00 GMT", Some(0)),
            ("soon", None),
        ] {
            let Err(Failure::Retry { after, .. }) = with(503, Some(text)) else { panic!("{text}") };
            assert_eq!(after, seconds.map(Duration::from_secs), "{text}");
        }
    }
}
