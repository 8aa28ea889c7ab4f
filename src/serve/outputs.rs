//! Live outputs: a sink that starts the output of each stream that has one, and passes it the decisions.
//!
//! ```text
//! publisher ─► queue ─► thread sink/outputs ─► decisions ┐
//! source ─► ring (disk) ────────────────────► thread output/<id> ─► receiver
//! ```
//!
//! The address comes from the operator's file and from nowhere else, so the address policy of sources does not apply.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::OverlaySettings;
use crate::hub::Hub;
use crate::hub::output::OutputStatus;
use crate::record::format::class_title;
use crate::record::{Published, StreamState};
use crate::sink::{Item, ItemContent, Sink};
use touchline_core::colours;
use touchline_core::decision::{SecondOutcome, WindowEstimate};
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, OTHER};
use touchline_core::threads::spawn;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::gst::clips::ring::RingOptions;
use touchline_media::gst::output::{Encoding, LabelForm, LiveOutput, LiveOutputOptions, OutputAddress, ShownSecond};
use touchline_media::overlay::{LabelContent, LabelledClass};

/// The title of an answer of which the models are not sure enough.
const UNKNOWN: &str = "Not sure";

/// Media of a stream that began this long ago are sent, ns.
const RECENT_NS: u64 = 10 * NANOS_PER_SECOND;

/// Starts and feeds the live outputs.
pub struct OutputSink {
    hub: Hub,
    settings: OverlaySettings,
    ring: RingOptions,
    /// Made when the first output starts.
    form: Option<LabelForm>,
    /// Wall time of the start, nanoseconds since 1970-01-01 UTC.
    since_unix_ns: u64,
    running: BTreeMap<Arc<str>, RunningOutput>,
    /// Those whose stream has ended, until their last picture is sent.
    ending: BTreeMap<Arc<str>, LiveOutput>,
}

struct RunningOutput {
    address: String,
    live: LiveOutput,
}

impl OutputSink {
    /// Where a stream `is_wanted` from the start, checks the template, the fonts and the encoder.
    ///
    /// # Errors
    /// [`Error::Usage`] if one of them cannot be used.
    pub fn open(settings: OverlaySettings, ring: RingOptions, hub: &Hub, is_wanted: bool) -> Result<Self> {
        let since_unix_ns = u64::try_from(hub.clock().unix_ns()).unwrap_or(0);
        let (running, ending) = (BTreeMap::new(), BTreeMap::new());
        let mut sink = Self { hub: hub.clone(), settings, ring, form: None, since_unix_ns, running, ending };
        if is_wanted {
            sink.form()?;
        }
        Ok(sink)
    }

    fn form(&mut self) -> Result<LabelForm> {
        if let Some(form) = &self.form {
            return Ok(form.clone());
        }
        touchline_media::gst::init()?;
        let OverlaySettings { mode, ref options, encoder, bitrate_kbps, .. } = self.settings;
        let encoding = Encoding { encoder, bitrate_kbps };
        let form = LabelForm::new(mode, options, encoding, "overlay.encoder").map_err(Error::Usage)?;
        Ok(self.form.insert(form).clone())
    }

    /// Starts, replaces or ends the output of a stream, as its settings want it.
    fn reconcile(&mut self, stream: &Arc<str>) {
        let wanted = self.hub.output(stream);
        if self.running.get(stream).map(|running| &running.address) == wanted.as_ref() {
            return;
        }
        // Waits for its end: the new one may have the same file or port.
        self.running.remove(stream);
        self.ending.remove(stream);
        self.hub.set_output_status(stream, None);
        let Some(wanted) = wanted else { return };
        match self.start(stream, &wanted) {
            Ok(running) => drop(self.running.insert(stream.clone(), running)),
            Err(e) => tracing::error!("{stream}: its output does not start: {e}"),
        }
    }

    fn start(&mut self, stream: &str, wanted: &str) -> Result<RunningOutput> {
        let form = self.form()?;
        let address = OutputAddress::parse(wanted).map_err(Error::Usage)?;
        let clock = self.hub.clock().clone();
        let now_ns = u64::try_from(clock.unix_ns()).unwrap_or(0);
        let status = OutputStatus::new(stream, &address, self.hub.metrics().output(stream), clock.clone());
        let status = Arc::new(status);
        let options = LiveOutputOptions {
            id: stream.to_owned(),
            address,
            ring: self.ring.clone(),
            // The file that is being written when the stream begins, also after a moment.
            since_unix_ns: self.since_unix_ns.max(now_ns.saturating_sub(RECENT_NS)),
            form,
            delay_ns: self.settings.delay_ns,
            clock,
        };
        self.hub.set_output_status(stream, Some(status.clone()));
        Ok(RunningOutput { address: wanted.to_owned(), live: LiveOutput::start(options, status)? })
    }

    /// Ends the output of a stream after its last picture.
    fn end(&mut self, stream: &Arc<str>) {
        if let Some(RunningOutput { live, .. }) = self.running.remove(stream) {
            live.drain();
            self.ending.insert(stream.clone(), live);
        }
    }

    fn second(&self, stream: &str, published: &Published) {
        let Some(running) = self.running.get(stream) else { return };
        let index = published.outcome.index();
        let second = match &published.outcome {
            SecondOutcome::Predicted(second) => {
                let label = content(self.hub.classes(), &published.estimate).map(Arc::new);
                ShownSecond { index, arrived_ns: second.arrived_ns, label }
            }
            SecondOutcome::Gap(_) => ShownSecond { index, arrived_ns: self.hub.clock().mono_ns(), label: None },
        };
        running.live.decided(second);
    }
}

impl Sink for OutputSink {
    fn name(&self) -> &'static str {
        "outputs"
    }

    fn take(&mut self, item: &Item) -> u64 {
        match &item.content {
            ItemContent::State(
                StreamState::Ended | StreamState::Failed { .. } | StreamState::Paused | StreamState::Removed,
            ) => self.end(&item.stream),
            ItemContent::Second(published) => {
                self.reconcile(&item.stream);
                self.second(&item.stream, published);
            }
            ItemContent::State(_) | ItemContent::RunStarted(..) => self.reconcile(&item.stream),
            ItemContent::RecordsOnly => {}
        }
        self.ending.retain(|_, live| !live.is_finished());
        0
    }

    fn finish(&mut self) {
        // Each may wait for its receiver, and the end of the program does not wait for all in turn. When a signal ends the program, what is
        // not decided yet is not sent.
        let mut over: Vec<(Arc<str>, LiveOutput)> =
            std::mem::take(&mut self.running).into_iter().map(|(id, running)| (id, running.live)).collect();
        let ending = std::mem::take(&mut self.ending);
        if self.hub.not_ready().is_some() {
            over.extend(ending);
        } else {
            ending.into_values().for_each(LiveOutput::join);
        }
        let end = |(id, live): (Arc<str>, LiveOutput)| spawn(&format!("drop/{id}"), move || drop(live));
        let ends: Vec<_> = over.into_iter().map(end).collect();
        ends.into_iter().flatten().for_each(|thread| drop(thread.join()));
    }
}

/// What the label shows of an estimate; [`None`] before the first decision.
fn content(classes: &ClassSet, estimate: &WindowEstimate) -> Option<LabelContent> {
    if estimate.seconds == 0 {
        return None;
    }
    let means = classes.names().iter().zip(&estimate.mean).map(|(name, mean)| (name.as_str(), *mean));
    label_content(classes.name(estimate.label), estimate.is_unknown(), means)
}

/// What the label shows: the answer `label`, or that the models are not sure, and the probabilities of all classes. [`None`] if the
/// answer is not among the classes.
pub fn label_content<'a>(
    label: &str,
    is_unknown: bool,
    probabilities: impl Iterator<Item = (&'a str, f32)>,
) -> Option<LabelContent> {
    let shown = |(name, probability): (&str, f32)| LabelledClass {
        name: name.to_owned(),
        title: class_title(name),
        probability,
        colour: colours::rgb(name),
    };
    let mut all: Vec<(&str, f32)> = probabilities.collect();
    // Equal ones stay in the order of the pack, so that bars do not jump.
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mut answer = shown(*all.iter().find(|(name, _)| *name == label)?);
    if is_unknown {
        answer = LabelledClass { title: UNKNOWN.into(), colour: colours::rgb(OTHER), ..answer };
    }
    Some(LabelContent { answer, classes: all.into_iter().map(shown).collect(), is_unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_shows_the_answer_and_the_classes_by_probability() {
        let classes = [("tennis", 0.2), ("tabletennis", 0.7), ("other", 0.1)];
        let content = label_content("tabletennis", false, classes.into_iter()).unwrap();
        assert_eq!((content.answer.title.as_str(), content.answer.probability), ("Table tennis", 0.7));
        assert_eq!(content.answer.colour, colours::rgb("tabletennis"));
        let titles: Vec<&str> = content.classes.iter().map(|class| class.title.as_str()).collect();
        assert_eq!(titles, ["Table tennis", "Tennis", "Other"]);
        let unsure = label_content("tabletennis", true, classes.into_iter()).unwrap();
        assert_eq!((unsure.answer.title.as_str(), unsure.answer.colour), ("Not sure", colours::rgb("other")));
        assert_eq!(label_content("golf", false, classes.into_iter()), None);
    }
}
