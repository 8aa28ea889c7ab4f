//! Reloads of the configuration file: what it adds, removes and changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Done, Driver, InitialStream, StreamManager};
use crate::config::{Fixed, StreamSettings};
use crate::control::streams::ReloadChanges;
use crate::hub::{Restored, StreamOwner};
use touchline_core::error::{Error, Result};
use touchline_core::threads::spawn;
use touchline_core::vote::VoteConfig;

/// The configuration file with the command line over it.
pub struct Reading {
    /// The streams of the file, without those of the command line.
    pub streams: Vec<StreamSettings>,
    /// The vote of streams without one of their own.
    pub vote: VoteConfig,
    /// Jitter buffer of streams that are added over the API without one, milliseconds.
    pub latency_ms: u32,
    /// Retry a configured stream whose first attempt fails.
    pub retry: bool,
    /// Values of the keys that take effect only at the start.
    pub fixed: Fixed,
}

impl<H: Driver + 'static> StreamManager<H> {
    /// Reads the configuration file again.
    pub(super) fn reload(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.tools.service_manager.reloading();
        let Some(read) = self.tools.read.clone() else { return self.tools.service_manager.ready() };
        if std::mem::replace(&mut self.reading, true) {
            // The file may have changed since this reading began.
            self.read_again = true;
            return;
        }
        let to = self.done_to.clone();
        let started = spawn("reload", move || {
            let _ = to.send(Done::Read(Box::new((*read)())));
        });
        if let Err(e) = started {
            self.read_done(Err(e));
        }
    }

    pub(super) fn read_done(&mut self, reading: Result<Reading>) {
        self.reading = false;
        if self.stopping.is_some() {
            return;
        }
        let outcome =
            reading.and_then(|reading| self.apply(reading)).map_err(|e| touchline_core::redact::text(&e.to_string()));
        self.tools.hub.metrics().config_reload(outcome.is_ok());
        match &outcome {
            Ok(changes) => {
                let ReloadChanges { added, removed, changed, needs_restart } = changes;
                let (added, removed, changed) = (added.len(), removed.len(), changed.len());
                tracing::info!("configuration reloaded: {added} streams added, {removed} removed, {changed} changed");
                if !needs_restart.is_empty() {
                    tracing::warn!("these keys take effect only after a restart: {}", needs_restart.join(", "));
                }
            }
            Err(e) => tracing::error!("the configuration is rejected, the previous one stays in force: {e}"),
        }
        self.tools.control.config().reloaded(self.tools.clock.unix_ns(), outcome);
        if std::mem::take(&mut self.read_again) {
            return self.reload();
        }
        self.tools.service_manager.ready();
    }

    /// Applies all of it, or nothing.
    fn apply(&mut self, reading: Reading) -> Result<ReloadChanges> {
        let Reading { streams, vote, latency_ms, retry, fixed } = reading;
        self.check(&streams, vote)?;
        // An operator who removes the last stream may add another one: the program continues from now on.
        self.rules.is_service = true;
        (self.rules.latency_ms, self.rules.retry) = (latency_ms, retry);
        self.vote = vote;
        self.tools.hub.set_vote_window(vote.window);
        let mut changes = ReloadChanges { needs_restart: self.changed_fixed(&fixed), ..ReloadChanges::default() };
        let wanted: BTreeSet<&str> = streams.iter().map(|s| s.id.as_str()).collect();
        for (id, entry) in &mut self.entries {
            if entry.origin == StreamOwner::Config && !entry.gone && !wanted.contains(id.as_str()) {
                entry.gone = true;
                changes.removed.push(id.clone());
            }
        }
        for settings in streams {
            let generation = self.next_generation();
            let id = settings.id.clone();
            let Some(entry) = self.entries.get_mut(&id) else {
                changes.added.push(id);
                let stream = InitialStream {
                    settings,
                    origin: StreamOwner::Config,
                    generation: Some(generation),
                    restored: Restored::default(),
                };
                self.add(stream)?;
                continue;
            };
            if entry.gone {
                // It is being removed, and is added again after that.
                entry.gone = false;
                changes.added.push(id);
            } else if entry.settings != settings {
                changes.changed.push(id);
            } else {
                if entry.may_revive() {
                    tracing::info!("{id}: had ended and is opened again");
                    entry.reopen = true;
                }
                continue;
            }
            entry.settings = settings;
            entry.generation = generation;
        }
        let ids: Vec<String> = self.entries.keys().cloned().collect();
        for id in &ids {
            if let Some(entry) = self.entries.get(id) {
                entry.show(self.vote, self.rules.retry);
            }
            self.reconcile(id);
        }
        Ok(changes)
    }

    fn check(&self, streams: &[StreamSettings], vote: VoteConfig) -> Result<()> {
        let others = self.entries.iter().filter(|(_, e)| e.origin != StreamOwner::Config);
        if let Some((id, _)) = others.clone().find(|(id, _)| streams.iter().any(|s| s.id == **id)) {
            let text = format!("stream {id:?} exists already and is not from this file; rename one of them");
            return Err(Error::Usage(text));
        }
        let (have, most) = (others.count() + streams.len(), self.rules.max_streams);
        if have > most {
            let text = format!("stream limit exceeded: {have} streams, --max-streams {most}; remove streams");
            return Err(Error::Usage(text));
        }
        for stream in streams {
            touchline_media::uri::Location::parse(&stream.uri)?;
            let refused = |e: String| Error::Usage(format!("stream {:?}: {e}", stream.id));
            stream.vote.over(vote).map_err(refused)?;
            stream.expectations(self.tools.hub.classes()).map_err(refused)?;
        }
        Ok(())
    }

    fn changed_fixed(&self, fixed: &Fixed) -> Vec<String> {
        let keys: BTreeSet<&str> = self.fixed.keys().chain(fixed.keys()).copied().collect();
        keys.into_iter().filter(|key| self.fixed.get(key) != fixed.get(key)).map(str::to_owned).collect()
    }
}

/// Reads the configuration file.
pub type Reader = Arc<dyn Fn() -> Result<Reading> + Send + Sync>;
