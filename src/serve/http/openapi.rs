//! The OpenAPI document: routes from `utoipa`, schemas from the types, refusals from the rules of `access`.
//!
//! A route declares its own answers. Here each gets those that the middleware gives, and every error its body.

use axum::http::Method;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::access::{self, Caller};
use super::answer::Problem;
use super::clip_routes::{ClipsView, NewClip};
use super::pack_routes::PackUpdate;
use super::past::{EventsView, SecondsView, SegmentsView, SummaryOfTimeView};
use super::probe_routes::ProbeView;
use super::teach_routes::{AddedView, CorrectionBody, CorrectionsView, SuggestionsView};
use crate::clips::Sidecar;
use crate::control::config_status::ConfigView;
use crate::control::packs::{AppliedPack, PackStatusView};
use crate::control::streams::{NewStream, StreamPatch};
use crate::fleet::view::FleetView;
use crate::hub::overview::OverviewView;
use crate::hub::view::{DetailView, InfoView, StreamsView};
use crate::record::SERIALISES;
use crate::record::types::schema_settings;
use crate::sink::SinksView;
use crate::teach::learn::LearnView;
use crate::teach::types::HeldView;

#[derive(OpenApi)]
#[openapi(info(
    title = "Touchline",
    version = "1",
    description = "Reads the streams and their decisions, and changes streams and pack while the program runs. The body of every error has the cause and advice.",
    license(name = "Apache-2.0", identifier = "Apache-2.0"),
))]
pub(crate) struct Api;

/// The document of `api`, which has the routes.
pub(crate) fn document(api: utoipa::openapi::OpenApi) -> String {
    let mut document = serde_json::to_value(api).expect(SERIALISES);
    let paths = document["paths"].as_object_mut().expect("routes have paths");
    for (path, item) in paths {
        for (method, operation) in item.as_object_mut().expect("a path has methods") {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("it is a method");
            complete(&method, path, operation);
        }
    }
    let token = "An admin or a read token. A server without tokens needs none; the page has a session cookie instead.";
    document["components"] = json!({
        "schemas": schemas(),
        "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "description": token } },
    });
    serde_json::to_string_pretty(&document).expect(SERIALISES)
}

/// Adds the answers of the middleware, the general descriptions, and the body of errors.
fn complete(method: &Method, path: &str, operation: &mut Value) {
    let is_change = access::is_change(method);
    let is_guarded = !access::is_open(method, path);
    let is_variable = operation["parameters"].as_array().is_some_and(|list| list.iter().any(|p| p["in"] != "header"));
    let responses = operation["responses"].as_object_mut().expect("a route has answers");
    // Files of the page are looked up by any name.
    let is_parsed = is_variable && !path.starts_with("/assets/");
    let refusals =
        [(is_guarded, &["401", "403", "429"][..]), (is_change, &["403", "408", "413"]), (is_parsed, &["400"])];
    for status in refusals.iter().filter(|(applies, _)| *applies).flat_map(|(_, statuses)| *statuses) {
        responses.entry(*status).or_insert_with(|| json!({ "description": "" }));
    }
    for (status, response) in responses {
        if status.as_str() < "400" {
            continue;
        }
        if response.get("description").is_none_or(|text| text == "") {
            response["description"] = description(status, is_change).into();
        }
        if status == "429" {
            response["headers"] =
                json!({ "Retry-After": { "description": "Seconds to wait.", "schema": { "type": "integer" } } });
        }
        if response.get("content").is_none() {
            let problem = json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
            response["content"] = json!({ "application/json": problem });
        }
    }
    if let Some(body) = operation.get_mut("requestBody") {
        // Without a body the running pack is read again.
        body["required"] = (path != "/api/v1/pack").into();
    }
    if is_guarded {
        operation["security"] = json!([{}, { "token": [] }]);
    }
}

/// The meaning of an error that the route does not describe.
fn description(status: &str, is_change: bool) -> &'static str {
    match status {
        "400" => "A parameter has a wrong form.",
        "401" => "The request has no token, or a wrong one.",
        "403" if is_change => {
            "The token may only read, changes are disabled on this address, or the request comes from another site's page."
        }
        "403" => "Without tokens the server accepts only an address or localhost in Host.",
        "404" => "There is no such stream.",
        "408" => "The body did not arrive within 10 s.",
        "413" => "The body is longer than 4096 bytes or did not arrive.",
        "415" => "The body is not application/json.",
        "429" => "Too many wrong tokens from this address.",
        "503" => "The program is starting or shutting down.",
        "504" => "Not finished after 20 s; still running. Poll GET.",
        _ => panic!("{status} needs a description at its route"),
    }
}

/// The schemas of all bodies.
fn schemas() -> Map<String, Value> {
    let path = |settings: &mut SchemaSettings| settings.definitions_path = "/components/schemas".into();
    let mut requests = schema_settings().for_deserialize().with(path).into_generator();
    requests.subschema_for::<access::login::Login>();
    requests.subschema_for::<CorrectionBody>();
    requests.subschema_for::<NewClip>();
    requests.subschema_for::<NewStream>();
    requests.subschema_for::<PackUpdate>();
    requests.subschema_for::<StreamPatch>();
    let mut answers = schema_settings().for_serialize().with(path).into_generator();
    answers.subschema_for::<AddedView>();
    answers.subschema_for::<AppliedPack>();
    answers.subschema_for::<Caller>();
    answers.subschema_for::<ClipsView>();
    answers.subschema_for::<ConfigView>();
    answers.subschema_for::<CorrectionsView>();
    answers.subschema_for::<DetailView>();
    answers.subschema_for::<EventsView>();
    answers.subschema_for::<HeldView>();
    answers.subschema_for::<FleetView>();
    answers.subschema_for::<InfoView>();
    answers.subschema_for::<LearnView>();
    answers.subschema_for::<OverviewView>();
    answers.subschema_for::<PackStatusView>();
    answers.subschema_for::<ProbeView>();
    answers.subschema_for::<Problem>();
    answers.subschema_for::<SecondsView>();
    answers.subschema_for::<SegmentsView>();
    answers.subschema_for::<SinksView>();
    answers.subschema_for::<Sidecar>();
    answers.subschema_for::<StreamsView>();
    answers.subschema_for::<SuggestionsView>();
    answers.subschema_for::<SummaryOfTimeView>();
    let mut schemas = requests.take_definitions(true);
    schemas.extend(answers.take_definitions(true));
    schemas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_described_and_all_references_resolve() {
        let text = &**crate::http::OPENAPI;
        let document: Value = serde_json::from_str(text).unwrap();
        let references: Vec<&str> =
            text.split("\"$ref\": \"#").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(references.len() > 100, "{references:?}");
        for pointer in &references {
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{method} {path}");
                for (status, response) in operation["responses"].as_object().unwrap() {
                    assert!(
                        response["description"].as_str().is_some_and(|d| !d.is_empty()),
                        "{method} {path} {status}"
                    );
                }
            }
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(references.contains(&format!("/components/schemas/{name}").as_str()), "{name}");
        }
    }
}
