//! What is known of the running pack, of its shadow, and of the updates asked for: `/api/v1/pack`, as data and as JSON;
//! and the control where an update is asked for.
//!
//! Not here: how a pack is loaded and swapped ([`crate::update`]), and who may ask over HTTP (`pack_routes`).

use parking_lot::{Mutex, MutexGuard};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;
use tokio::sync::oneshot;

use super::agreement::{Agreement, AgreementView};
use super::format::{millis, rfc3339};
use super::pack_view::PackView;
use super::record::to_json;
use crate::metrics::ShadowDrop;
use touchline_compute::models::pack::Pack;
use touchline_core::clock::Clock;
use touchline_core::decision::{PackStamp, SecondPrediction};
use touchline_core::labels::ClassSet;

/// Requests that wait for the pack thread. One over HTTP at most, and one each of a signal and of the start: more of the
/// same would read the same directory again.
const REQUESTS_MAX: usize = 4;

/// What made the program look at a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PackTrigger {
    /// `POST /api/v1/pack`.
    Http,
    /// SIGHUP.
    Signal,
    /// The pack's directory changed.
    Watch,
}

/// A pack that was taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AppliedPack {
    /// Its name.
    pub pack: String,
    pub weights_sha256: String,
    pub manifest_sha256: String,
    /// The directory, below the root of packs where it is there.
    pub path: String,
    /// The networks and their inputs are the old ones: only the table, temperatures or words differ.
    pub table_only: bool,
    /// It is the very pack that ran already, and nothing was swapped.
    pub unchanged: bool,
    /// Milliseconds from the request to the swap: loading, verifying, warming up.
    pub took_ms: f64,
}

/// Why a pack was not taken; the old one stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackRefusalKind {
    /// Another update is under way.
    Busy,
    /// The program is not ready, or ends.
    NotReady,
    /// The path leads out of the root of packs.
    OutsideRoot,
    /// The pack cannot be read, verified, built or warmed up.
    BadPack,
    /// The pack is whole but not made for the streams that run.
    Incompatible,
    /// A fault of the program.
    Internal,
}

/// A refusal, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}; {advice}")]
pub struct PackRefusal {
    pub kind: PackRefusalKind,
    pub error: String,
    pub advice: String,
}

impl PackRefusal {
    pub fn new(kind: PackRefusalKind, error: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { kind, error: error.into(), advice: advice.into() }
    }
}

/// What became of a request.
pub type PackOutcome = Result<AppliedPack, PackRefusal>;

/// A request on its way to the pack thread.
#[derive(Debug)]
pub struct PackRequest {
    pub trigger: PackTrigger,
    /// The directory of another pack; `None`: the running pack's directory, again.
    pub path: Option<PathBuf>,
    /// Who waits for the outcome, if anybody.
    pub answer: Option<oneshot::Sender<PackOutcome>>,
}

/// Where updates are asked for. Cloning shares it.
#[derive(Clone, Debug)]
pub struct PackControl {
    requests: Sender<PackRequest>,
    /// Updates under way or accepted.
    under_way: Arc<AtomicUsize>,
}

impl PackControl {
    /// A control, and where its requests come out.
    pub fn new() -> (Self, Receiver<PackRequest>) {
        let (requests, out) = bounded(REQUESTS_MAX);
        (Self { requests, under_way: Arc::default() }, out)
    }

    /// Asks for an update; the outcome comes over the channel.
    ///
    /// # Errors
    /// [`PackRefusalKind::Busy`] while another update is under way, [`PackRefusalKind::NotReady`] when nobody takes requests.
    pub fn submit(&self, path: Option<PathBuf>) -> Result<oneshot::Receiver<PackOutcome>, PackRefusal> {
        if self.under_way.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_err() {
            let advice = "ask again when it is through; GET /api/v1/pack shows its outcome";
            return Err(PackRefusal::new(PackRefusalKind::Busy, "another update is under way", advice));
        }
        let (answer, outcome) = oneshot::channel();
        if self.requests.try_send(PackRequest { trigger: PackTrigger::Http, path, answer: Some(answer) }).is_err() {
            self.finished();
            return Err(PackRefusal::new(
                PackRefusalKind::NotReady,
                "packs cannot be changed now",
                "ask again in a second",
            ));
        }
        Ok(outcome)
    }

    /// Asks to read the running pack's directory again; nobody waits for the outcome.
    pub fn reload(&self) {
        // A full queue holds such a request already.
        let _ = self.requests.try_send(PackRequest { trigger: PackTrigger::Signal, path: None, answer: None });
    }

    /// An update that was not asked for here begins.
    pub fn begun(&self) {
        self.under_way.fetch_add(1, Ordering::AcqRel);
    }

    /// An update is through.
    pub fn finished(&self) {
        self.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The last update, whatever came of it.
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

/// What `/api/v1/pack` shows. The lock is held for a moment, once a second and stream and for each question.
pub struct PackStatus {
    classes: Arc<ClassSet>,
    clock: Arc<dyn Clock>,
    state: Mutex<PackState>,
}

impl PackStatus {
    pub fn new(classes: Arc<ClassSet>, clock: Arc<dyn Clock>) -> Self {
        Self { classes, clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, PackState> {
        self.state.lock()
    }

    /// Says which pack runs; `path` is how people would ask for it.
    pub fn set_pack(&self, pack: Arc<Pack>, path: String) {
        self.state().pack = Some((pack, path));
    }

    /// Says which pack runs as a shadow.
    pub fn set_shadow(&self, pack: Arc<Pack>, path: String) {
        self.state().shadow = Some(ShadowStatus { pack, path, agreement: Agreement::default() });
    }

    /// Both packs decided a second of a stream. Returns the mean absolute difference of the probabilities.
    pub fn compared(&self, stream: &str, main: &SecondPrediction, shadow: &SecondPrediction) -> Option<f64> {
        self.state().shadow.as_mut().map(|s| s.agreement.compared(stream, main, shadow))
    }

    /// A stream is gone.
    pub fn forget(&self, stream: &str) {
        if let Some(shadow) = &mut self.state().shadow {
            shadow.agreement.forget(stream);
        }
    }

    /// The shadow did not decide a second.
    pub fn shadow_dropped(&self, why: ShadowDrop) {
        if let Some(shadow) = &mut self.state().shadow {
            shadow.agreement.dropped(why);
        }
    }

    /// An update is through.
    pub fn updated(&self, trigger: PackTrigger, path: String, outcome: PackOutcome) {
        let mut state = self.state();
        match &outcome {
            Ok(_) => state.applied += 1,
            Err(_) => state.refused += 1,
        }
        state.last = Some(LastUpdate { unix_ns: self.clock.unix_ns(), trigger, path, outcome });
    }

    /// The answer of `GET /api/v1/pack`; `writable`: whether POST would be listened to.
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

#[derive(Serialize)]
struct PackStatusView<'a> {
    pack: &'a PackStamp,
    path: Option<&'a str>,
    classes: &'a [String],
    #[serde(flatten)]
    details: Option<PackView<'a>>,
    shadow: Option<ShadowView<'a>>,
    updates: UpdatesView<'a>,
}

#[derive(Serialize)]
struct ShadowView<'a> {
    pack: PackStamp,
    path: &'a str,
    #[serde(flatten)]
    agreement: AgreementView<'a>,
}

#[derive(Serialize)]
struct UpdatesView<'a> {
    accepted: bool,
    applied: u64,
    refused: u64,
    last: Option<LastView<'a>>,
}

#[derive(Serialize)]
struct LastView<'a> {
    at: String,
    trigger: PackTrigger,
    path: &'a str,
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
        // A signal waits behind it, and is no reason to accept another request.
        control.reload();
        let first = requests.recv().unwrap();
        assert_eq!((first.trigger, first.path), (PackTrigger::Http, Some("new".into())));
        let why = PackRefusal::new(PackRefusalKind::BadPack, "it is bad", "bring a better one");
        first.answer.unwrap().send(Err(why.clone())).unwrap();
        control.finished();
        assert_eq!(outcome.blocking_recv().unwrap().unwrap_err(), why);
        control.begun();
        assert_eq!(requests.recv().unwrap().trigger, PackTrigger::Signal);
        assert_eq!(control.submit(None).unwrap_err().kind, PackRefusalKind::Busy);
        control.finished();
        control.submit(None).unwrap();
    }

    #[test]
    fn nobody_takes_requests_once_the_pack_thread_is_gone() {
        let (control, requests) = PackControl::new();
        drop(requests);
        assert_eq!(control.submit(None).unwrap_err().kind, PackRefusalKind::NotReady);
        assert_eq!(control.submit(None).unwrap_err().kind, PackRefusalKind::NotReady, "and not busy for ever");
        control.reload();
    }
}
