//! The status of the configuration file: its name and its last reload (`/api/v1/config`).

use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::Serialize;

use crate::record::format::rfc3339;
use crate::record::to_json;

/// The status for `GET /api/v1/config`.
#[derive(Debug, Default)]
pub struct ConfigStatus {
    state: Mutex<ConfigState>,
}

#[derive(Debug, Default)]
struct ConfigState {
    /// Its name without its path.
    file: Option<String>,
    applied: u64,
    refused: u64,
    last: Option<LastReload>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Reload")]
struct LastReload {
    #[schemars(extend("format" = "date-time"))]
    at: String,
    #[schemars(extend("enum" = ["applied", "refused"]))]
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<ReloadChanges>,
    /// Why the reload was refused. The previous settings stay in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The changes of a reload: ids, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ReloadChanges {
    /// Streams that were added.
    pub added: Vec<String>,
    /// Streams that were removed.
    pub removed: Vec<String>,
    /// Streams whose settings changed.
    pub changed: Vec<String>,
    /// Changed keys that take effect only after a restart.
    pub needs_restart: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Config")]
pub(crate) struct ConfigView<'a> {
    /// Name of the file; null without --config.
    file: Option<&'a str>,
    reloads: ReloadsView<'a>,
}

#[derive(Serialize, JsonSchema)]
struct ReloadsView<'a> {
    applied: u64,
    refused: u64,
    last: Option<&'a LastReload>,
}

impl ConfigStatus {
    fn state(&self) -> MutexGuard<'_, ConfigState> {
        self.state.lock()
    }

    /// Sets the name of the file.
    pub fn set_file(&self, name: String) {
        self.state().file = Some(name);
    }

    /// Records a reload at `unix_ns`, nanoseconds since 1970-01-01 UTC.
    pub fn reloaded(&self, unix_ns: i64, outcome: Result<ReloadChanges, String>) {
        let mut state = self.state();
        let at = rfc3339(unix_ns);
        state.last = Some(match outcome {
            Ok(changes) => {
                state.applied += 1;
                LastReload { at, outcome: "applied", changes: Some(changes), error: None }
            }
            Err(error) => {
                state.refused += 1;
                LastReload { at, outcome: "refused", changes: None, error: Some(touchline_core::redact::text(&error)) }
            }
        });
    }

    /// The answer of `GET /api/v1/config`.
    pub fn json(&self) -> String {
        let state = self.state();
        to_json(&ConfigView {
            file: state.file.as_deref(),
            reloads: ReloadsView { applied: state.applied, refused: state.refused, last: state.last.as_ref() },
        })
    }
}
