//! A client for the API of a running program.

use std::time::Duration;

use serde_json::Value;

use super::wait::until;

/// An answer. The body is null unless it is JSON.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub etag: Option<String>,
    pub allow: Option<String>,
    pub kind: String,
    pub body: Value,
    pub text: String,
}

/// Sends a request to `http://{address}{path}` with `body` as JSON.
pub fn ask(address: &str, method: &str, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Answer {
    let text = body.map(Value::to_string);
    let json = [("content-type", "application/json")];
    let headers: Vec<_> = if text.is_some() { json.iter().chain(headers).copied().collect() } else { headers.to_vec() };
    send(address, method, path, text.as_deref().unwrap_or(""), &headers).expect("the server answers")
}

/// Like [`ask`], with an arbitrary body and only these `headers`. [`None`] when the server does not answer.
pub fn send(address: &str, method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Option<Answer> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into();
    let request = headers.iter().fold(
        ureq::http::Request::builder().method(method).uri(format!("http://{address}{path}")),
        |request, (name, value)| request.header(*name, *value),
    );
    let answer = if body.is_empty() {
        agent.run(request.body(()).ok()?)
    } else {
        agent.run(request.body(body.to_owned()).ok()?)
    };
    let mut answer = answer.ok()?;
    let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (location, etag, allow) = (header("location"), header("etag"), header("allow"));
    let (status, kind) = (answer.status().as_u16(), header("content-type").unwrap_or_default());
    let text = answer.body_mut().read_to_string().ok()?;
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Some(Answer { status, location, etag, allow, kind, body, text })
}

/// Waits until the program at `address` is ready.
pub fn wait_until_ready(address: &str) {
    until("readiness", || send(address, "GET", "/readyz", "", &[]).is_some_and(|answer| answer.status == 200));
}

/// The ids of all streams.
pub fn ids(address: &str) -> Vec<String> {
    let streams = ask(address, "GET", "/api/v1/streams", None, &[]).body;
    let ids =
        streams["streams"].as_array().expect("a list").iter().map(|s| s["id"].as_str().expect("an id").to_owned());
    ids.collect()
}
