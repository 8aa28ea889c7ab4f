//! The status of the running pack, its shadow and its updates (`/api/v1/pack`), and the control that submits updates.
//!
//! [`crate::update`] loads and swaps packs, `pack_routes` answers over HTTP.

use parking_lot::{Mutex, MutexGuard};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::oneshot;

use super::agreement::{Agreement, AgreementView};
use super::pack_view::PackView;
use crate::metrics::ShadowDrop;
use crate::record::format::{millis, rfc3339};
use crate::record::to_json;
use touchline_compute::models::pack::Pack;
use touchline_core::clock::Clock;
use touchline_core::decision::{PackStamp, SecondPrediction};
use touchline_core::labels::ClassSet;

/// Capacity of the queue of the pack thread. More signals would only read the same directory again.
const REQUESTS_MAX: usize = 4;

/// The cause of a pack update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PackTrigger {
    /// `POST /api/v1/pack`.
    Http,
    /// SIGHUP.
    Signal,
    /// The pack's directory changed.
    Watch,
    /// A rollout of the fleet.
    Fleet,
}

/// A successful update.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Applied")]
pub struct AppliedPack {
    /// Name of the pack.
    pub pack: String,
    /// SHA-256 of its weights.
    pub weights_sha256: String,
    /// SHA-256 of its manifest.
    pub manifest_sha256: String,
    /// Its directory, relative to the root of packs.
    pub path: String,
    /// The networks and their inputs are unchanged; only the table, the temperatures or the texts differ.
    pub table_only: bool,
    /// The pack was running already; nothing was swapped.
    pub unchanged: bool,
    /// Milliseconds from the request to the swap: loading, verifying, warming up.
    #[schemars(range(min = 0))]
    pub took_ms: f64,
}

/// Why an update was refused. The previous pack stays in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PackRefusalKind {
    /// Another update is in progress.
    Busy,
    /// The program is starting or shutting down.
    NotReady,
    /// The path is outside the root of packs.
    OutsideRoot,
    /// The pack cannot be read, verified, built or warmed up.
    BadPack,
    /// The pack is valid but does not fit the running streams.
    Incompatible,
    /// A fault of the program.
    Internal,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}; {advice}")]
pub struct PackRefusal {
    /// The cause, for programs.
    pub kind: PackRefusalKind,
    /// What is wrong.
    pub error: String,
    /// What to do.
    pub advice: String,
}

impl PackRefusal {
    /// A refusal with its cause and advice.
    pub fn new(kind: PackRefusalKind, error: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { kind, error: error.into(), advice: advice.into() }
    }
}

/// The outcome of a request.
pub type PackOutcome = Result<AppliedPack, PackRefusal>;

/// A request to the pack thread.
#[derive(Debug)]
pub struct PackRequest {
    /// Its cause.
    pub trigger: PackTrigger,
    /// Directory of the pack; `None`: the running pack's directory.
    pub path: Option<PathBuf>,
    /// Receives the outcome.
    pub answer: Option<oneshot::Sender<PackOutcome>>,
}

/// Submits pack updates. Cloning shares it.
#[derive(Clone, Debug)]
pub struct PackControl {
    requests: Sender<PackRequest>,
    /// Updates accepted or in progress.
    in_progress: Arc<AtomicUsize>,
}

impl PackControl {
    /// A control, and the receiver of its requests.
    pub fn new() -> (Self, Receiver<PackRequest>) {
        let (requests, out) = bounded(REQUESTS_MAX);
        (Self { requests, in_progress: Arc::default() }, out)
    }

    /// Submits an update. The channel returns its outcome.
    ///
    /// # Errors
    /// [`PackRefusalKind::Busy`] while another update is in progress, [`PackRefusalKind::NotReady`] if the pack thread
    /// has ended.
    pub fn submit(&self, path: Option<PathBuf>) -> Result<oneshot::Receiver<PackOutcome>, PackRefusal> {
        self.submit_for(PackTrigger::Http, path)
    }

    /// As [`PackControl::submit`], for a rollout of the fleet: `dir` may be outside the root of packs.
    ///
    /// # Errors
    /// As [`PackControl::submit`].
    pub fn submit_fleet(&self, dir: PathBuf) -> Result<oneshot::Receiver<PackOutcome>, PackRefusal> {
        self.submit_for(PackTrigger::Fleet, Some(dir))
    }

    fn submit_for(
        &self,
        trigger: PackTrigger,
        path: Option<PathBuf>,
    ) -> Result<oneshot::Receiver<PackOutcome>, PackRefusal> {
        if self.in_progress.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_err() {
            let advice = "retry when it is finished; GET /api/v1/pack shows the outcome";
            return Err(PackRefusal::new(PackRefusalKind::Busy, "another update is in progress", advice));
        }
        let (answer, outcome) = oneshot::channel();
        if self.requests.try_send(PackRequest { trigger, path, answer: Some(answer) }).is_err() {
            self.finished();
            return Err(PackRefusal::new(
                PackRefusalKind::NotReady,
                "packs cannot be changed now",
                "retry in a second",
            ));
        }
        Ok(outcome)
    }

    /// Requests a reload of the running pack's directory, without an answer.
    pub fn reload(&self) {
        // If the queue is full, a reload is pending already.
        let _ = self.requests.try_send(PackRequest { trigger: PackTrigger::Signal, path: None, answer: None });
    }

    /// An update that was not submitted here begins.
    pub fn begun(&self) {
        self.in_progress.fetch_add(1, Ordering::AcqRel);
    }

    /// An update has finished.
    pub fn finished(&self) {
        self.in_progress.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The last update.
#[derive(Clone, Debug)]
struct LastUpdate {
    unix_ns: i64,
    trigger: PackTrigger,
    path: String,
    outcome: PackOutcome,
}

#[derive(Default)]
struct PackState {
    pack: Option<(Arc<Pack>, String)>,
    shadow: Option<ShadowStatus>,
    applied: u64,
    refused: u64,
    last: Option<LastUpdate>,
}

struct ShadowStatus {
    pack: Arc<Pack>,
    path: String,
    agreement: Agreement,
}

/// The status for `/api/v1/pack`.
pub struct PackStatus {
    classes: Arc<ClassSet>,
    clock: Arc<dyn Clock>,
    state: Mutex<PackState>,
}

impl PackStatus {
    /// A status without a pack.
    pub fn new(classes: Arc<ClassSet>, clock: Arc<dyn Clock>) -> Self {
        Self { classes, clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, PackState> {
        self.state.lock()
    }

    /// Sets the running pack; `path` is its path as the API shows it.
    pub fn set_pack(&self, pack: Arc<Pack>, path: String) {
        self.state().pack = Some((pack, path));
    }

    /// The running pack, and its path as the API shows it.
    pub fn running(&self) -> Option<(Arc<Pack>, String)> {
        self.state().pack.clone()
    }

    /// There is no shadow any more.
    pub fn clear_shadow(&self) {
        self.state().shadow = None;
    }

    /// Sets the pack of the shadow.
    pub fn set_shadow(&self, pack: Arc<Pack>, path: String) {
        self.state().shadow = Some(ShadowStatus { pack, path, agreement: Agreement::default() });
    }

    /// Counts a second that both packs decided. Returns the mean absolute difference of the probabilities.
    pub fn compared(&self, stream: &str, main: &SecondPrediction, shadow: &SecondPrediction) -> Option<f64> {
        self.state().shadow.as_mut().map(|s| s.agreement.compared(stream, main, shadow))
    }

    /// Seconds with the same label, and all seconds, that the shadow from the directory `dir` was compared on; `None` if there is no such
    /// shadow.
    pub fn compared_with(&self, dir: &Path) -> Option<(u64, u64)> {
        let state = self.state();
        state.shadow.as_ref().filter(|shadow| shadow.pack.dir == dir).map(|shadow| shadow.agreement.totals())
    }

    /// Removes a stream.
    pub fn forget(&self, stream: &str) {
        if let Some(shadow) = &mut self.state().shadow {
            shadow.agreement.forget(stream);
        }
    }

    /// Counts a second that the shadow did not decide.
    pub fn shadow_dropped(&self, why: ShadowDrop) {
        if let Some(shadow) = &mut self.state().shadow {
            shadow.agreement.dropped(why);
        }
    }

    /// Sets the last update.
    pub fn updated(&self, trigger: PackTrigger, path: String, outcome: PackOutcome) {
        let mut state = self.state();
        match &outcome {
            Ok(_) => state.applied += 1,
            Err(_) => state.refused += 1,
        }
        state.last = Some(LastUpdate { unix_ns: self.clock.unix_ns(), trigger, path, outcome });
    }

    /// The answer of `GET /api/v1/pack`; `writable`: whether POST is accepted.
    pub fn json(&self, running: &PackStamp, writable: bool) -> String {
        let state = self.state();
        to_json(&PackStatusView {
            pack: running,
            path: state.pack.as_ref().map(|(_, path)| path.as_str()),
            classes: self.classes.names(),
            details: state.pack.as_ref().map(|(pack, _)| PackView::new(pack)),
            shadow: state.shadow.as_ref().map(|shadow| ShadowView {
                pack: shadow.pack.stamp(),
                path: &shadow.path,
                agreement: shadow.agreement.view(&self.classes),
            }),
            updates: UpdatesView {
                accepted: writable,
                applied: state.applied,
                refused: state.refused,
                last: state.last.as_ref().map(LastView::new),
            },
        })
    }
}

/// The running pack. With a pack the keys `models`, `fusion`, `card` and `left_out` describe it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Pack", extend("additionalProperties" = true))]
pub(crate) struct PackStatusView<'a> {
    pack: &'a PackStamp,
    path: Option<&'a str>,
    classes: &'a [String],
    #[serde(flatten)]
    #[schemars(skip)]
    details: Option<PackView<'a>>,
    shadow: Option<ShadowView<'a>>,
    updates: UpdatesView<'a>,
}

#[derive(Serialize, JsonSchema)]
struct ShadowView<'a> {
    pack: PackStamp,
    path: &'a str,
    #[serde(flatten)]
    agreement: AgreementView<'a>,
}

#[derive(Serialize, JsonSchema)]
struct UpdatesView<'a> {
    /// Whether any caller may change the pack.
    accepted: bool,
    applied: u64,
    refused: u64,
    last: Option<LastView<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LastUpdate")]
struct LastView<'a> {
    #[schemars(extend("format" = "date-time"))]
    at: String,
    trigger: PackTrigger,
    path: &'a str,
    #[schemars(extend("enum" = ["applied", "refused"]))]
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<&'a AppliedPack>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<PackRefusalKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'a str>,
}

impl<'a> LastView<'a> {
    fn new(last: &'a LastUpdate) -> Self {
        let (applied, refused) = match &last.outcome {
            Ok(applied) => (Some(applied), None),
            Err(refused) => (None, Some(refused)),
        };
        Self {
            at: rfc3339(last.unix_ns),
            trigger: last.trigger,
            path: &last.path,
            outcome: if applied.is_some() { "applied" } else { "refused" },
            applied,
            reason: refused.map(|r| r.kind),
            error: refused.map(|r| r.error.as_str()),
            advice: refused.map(|r| r.advice.as_str()),
        }
    }
}

/// Milliseconds for [`AppliedPack::took_ms`].
pub fn took_ms(ns: u64) -> f64 {
    millis(ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_update_at_a_time_is_accepted() {
        let (control, requests) = PackControl::new();
        let outcome = control.submit(Some("new".into())).unwrap();
        assert_eq!(control.submit(None).unwrap_err().kind, PackRefusalKind::Busy);
        // A signal waits for the update, and no other request is accepted meanwhile.
        control.reload();
        let first = requests.recv().unwrap();
        assert_eq!((first.trigger, first.path), (PackTrigger::Http, Some("new".into())));
        let refusal = PackRefusal::new(PackRefusalKind::BadPack, "it is bad", "bring a better one");
        first.answer.unwrap().send(Err(refusal.clone())).unwrap();
        control.finished();
        assert_eq!(outcome.blocking_recv().unwrap().unwrap_err(), refusal);
        control.begun();
        assert_eq!(requests.recv().unwrap().trigger, PackTrigger::Signal);
        assert_eq!(control.submit(None).unwrap_err().kind, PackRefusalKind::Busy);
        control.finished();
        control.submit(None).unwrap();
    }

    #[test]
    fn requests_are_refused_after_the_pack_thread_has_ended() {
        let (control, requests) = PackControl::new();
        drop(requests);
        assert_eq!(control.submit(None).unwrap_err().kind, PackRefusalKind::NotReady);
        assert_eq!(control.submit(None).unwrap_err().kind, PackRefusalKind::NotReady, "the control does not stay busy");
        control.reload();
    }
}
