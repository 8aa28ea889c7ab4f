//! Requests of the API: checked here, stored, and then carried out by [`StreamManager::reconcile`].

use tokio::sync::oneshot;

use super::entry::{Pending, PendingChange, Phase};
use super::{Driver, InitialStream, StreamManager};
use crate::config::{StreamSettings, free_id};
use crate::control::streams::{
    NewStream, StreamChange, StreamControl, StreamOutcome, StreamPatch, StreamRefusal, StreamRefusalKind, StreamRequest,
};
use crate::hub::{Restored, StreamOwner};
use crate::store::Stored;
use touchline_core::error::{Error, Result};
use touchline_media::uri::Location;

/// How streams of a fleet are changed.
const FLEET_ADVICE: &str = "use `touchline stream` with the fleet's address";

impl<H: Driver + 'static> StreamManager<H> {
    pub(super) fn handle_request(&mut self, request: StreamRequest) {
        let StreamRequest { change, answer } = request;
        let refused = if self.stopping.is_some() {
            Err((StreamControl::shutting_down(), answer))
        } else {
            match change {
                StreamChange::Add(new) => self.handle_add(*new, answer),
                StreamChange::Change { id, patch, generation } => self.handle_change(&id, &patch, generation, answer),
                StreamChange::Remove { id, generation } => self.handle_remove(&id, generation, answer),
            }
        };
        if let Err((refused, answer)) = refused {
            // The client may be gone.
            let _ = answer.send(Err(refused));
        }
    }

    fn handle_add(
        &mut self,
        new: NewStream,
        answer: oneshot::Sender<StreamOutcome>,
    ) -> Result<(), (StreamRefusal, Answer)> {
        let stream = match self.new_stream(new) {
            Ok(stream) => stream,
            Err(refused) => return Err((refused, answer)),
        };
        let id = stream.settings.id.clone();
        // An operator relies on the program from now on.
        self.rules.is_service = true;
        match self.enter(stream, None) {
            Ok(entry) => entry.pending = Some(Pending { answer, change: PendingChange::Add, generation: 0 }),
            Err(e) => {
                return Err((
                    StreamRefusal::new(StreamRefusalKind::Invalid, e.to_string(), "choose another id"),
                    answer,
                ));
            }
        }
        self.save(&id);
        Ok(())
    }

    fn new_stream(&mut self, new: NewStream) -> Result<InitialStream, StreamRefusal> {
        new.check()?;
        if self.rules.is_in_fleet {
            let text = "this machine is in a fleet, whose machines share their streams";
            return Err(StreamRefusal::new(StreamRefusalKind::NotOwned, text, FLEET_ADVICE));
        }
        let most = self.rules.max_streams;
        if self.entries.len() >= most {
            let advice = "remove a stream first, or start the program with a higher --max-streams";
            return Err(StreamRefusal::new(StreamRefusalKind::Limit, format!("stream limit reached ({most})"), advice));
        }
        let id = match new.id() {
            Some(id) if self.entries.contains_key(id) => {
                let advice = "choose another id, or change that stream with PATCH";
                return Err(StreamRefusal::new(
                    StreamRefusalKind::Duplicate,
                    format!("stream {id:?} exists already"),
                    advice,
                ));
            }
            Some(id) => id.to_owned(),
            None => free_id(new.uri(), |id| self.entries.contains_key(id)),
        };
        let settings = new.settings(id, self.rules.latency_ms);
        self.fits(&settings)?;
        Ok(InitialStream { settings, origin: StreamOwner::Api, generation: None, restored: Restored::default() })
    }

    /// Checks settings from the API.
    fn fits(&self, settings: &StreamSettings) -> Result<(), StreamRefusal> {
        Location::parse(&settings.uri)
            .map_err(|e| StreamRefusal::new(StreamRefusalKind::Invalid, e.to_string(), "correct the uri"))?;
        settings
            .vote
            .over(self.vote)
            .map(drop)
            .map_err(|e| StreamRefusal::new(StreamRefusalKind::Invalid, e, "correct vote"))?;
        settings
            .expectations(self.tools.hub.classes())
            .map(drop)
            .map_err(|e| StreamRefusal::new(StreamRefusalKind::Invalid, e, "correct expect"))
    }

    fn handle_change(
        &mut self,
        id: &str,
        patch: &StreamPatch,
        generation: Option<u64>,
        answer: oneshot::Sender<StreamOutcome>,
    ) -> Result<(), (StreamRefusal, Answer)> {
        let new = match self.changeable(id, generation).and_then(|()| self.changed_settings(id, patch)) {
            Ok(new) => new,
            Err(refused) => return Err((refused, answer)),
        };
        let Some(entry) = self.entries.get_mut(id) else { return Ok(()) };
        // `enabled: true` also opens a source again that has ended.
        entry.reopen |= patch.enabled == Some(true) && (entry.over || !entry.settings.enabled);
        entry.pending = Some(Pending { answer, change: PendingChange::Change(Box::new(new)), generation: 0 });
        self.save(id);
        Ok(())
    }

    fn changed_settings(&self, id: &str, patch: &StreamPatch) -> Result<StreamSettings, StreamRefusal> {
        patch.check()?;
        let Some(entry) = self.entries.get(id) else { return Err(unknown(id)) };
        let new = patch.apply(&entry.settings);
        self.fits(&new)?;
        Ok(new)
    }

    fn handle_remove(
        &mut self,
        id: &str,
        generation: Option<u64>,
        answer: oneshot::Sender<StreamOutcome>,
    ) -> Result<(), (StreamRefusal, Answer)> {
        // A stream that is being opened can be removed: opening may hang. Its pending request is refused.
        if let Some(entry) = self
            .entries
            .get_mut(id)
            .filter(|e| e.is_opening_requested() && generation.is_none_or(|g| g == e.generation))
        {
            let advice = "add the stream again if you still want it";
            entry.refuse(StreamRefusal::new(
                StreamRefusalKind::Busy,
                format!("stream {id:?} was removed before it had opened"),
                advice,
            ));
        }
        if let Err(refused) = self.changeable(id, generation) {
            return Err((refused, answer));
        }
        if let Some(entry) = self.entries.get_mut(id) {
            entry.pending = Some(Pending { answer, change: PendingChange::Remove, generation: 0 });
        }
        self.save(id);
        Ok(())
    }

    /// Checks that the API may change stream `id` now.
    fn changeable(&self, id: &str, generation: Option<u64>) -> Result<(), StreamRefusal> {
        let entry = self.entries.get(id).ok_or_else(|| unknown(id))?;
        let owner = match entry.origin {
            StreamOwner::Api => None,
            StreamOwner::Config => Some(("the configuration file", "edit the file and send SIGHUP")),
            StreamOwner::CommandLine => Some(("the command line", "restart the program without it")),
            StreamOwner::Fleet => Some(("the fleet", FLEET_ADVICE)),
        };
        if let Some((owner, advice)) = owner {
            return Err(StreamRefusal::new(
                StreamRefusalKind::NotOwned,
                format!("stream {id:?} belongs to {owner}"),
                advice,
            ));
        }
        if entry.pending.is_some() || entry.gone {
            let advice = "retry when it is finished; GET shows the state";
            return Err(StreamRefusal::new(
                StreamRefusalKind::Busy,
                format!("another change of stream {id:?} is in progress"),
                advice,
            ));
        }
        match generation {
            Some(wanted) if wanted != entry.generation => {
                let error =
                    format!("the settings of stream {id:?} changed: version {}, not {wanted}", entry.generation);
                Err(StreamRefusal::new(
                    StreamRefusalKind::Outdated,
                    error,
                    "read the stream again and send its new ETag",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Stores the change. It is carried out once it is durable.
    fn save(&mut self, id: &str) {
        let generation = self.next_generation();
        let Some(entry) = self.entries.get_mut(id) else { return };
        if let Some(pending) = &mut entry.pending {
            pending.generation = generation;
        }
        let Some(store) = &self.tools.store else { return self.saved(id, Ok(())) };
        let to = self.done_to.clone();
        let done_id = id.to_owned();
        let tell = Box::new(move |result| {
            // The stream manager is gone only at shutdown.
            let _ = to.send(super::Done::Saved { id: done_id, result });
        });
        entry.saving = true;
        match &entry.pending {
            Some(Pending { change: PendingChange::Remove, .. }) => store.delete(id, tell),
            Some(Pending { change: PendingChange::Change(new), generation, .. }) => {
                store.save(Stored { settings: (**new).clone(), generation: *generation }, tell);
            }
            _ => store.save(Stored { settings: entry.settings.clone(), generation: entry.generation }, tell),
        }
    }

    /// The store has written the change, or failed.
    pub(super) fn saved(&mut self, id: &str, result: Result<()>) {
        let (run_vote, run_retry) = (self.vote, self.rules.retry);
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.saving = false;
        if let Err(e) = result {
            let advice = "free space on the disk of --state, then retry";
            let is_new = matches!(entry.pending, Some(Pending { change: PendingChange::Add, .. }));
            entry.reopen = false;
            entry.refuse(StreamRefusal::new(StreamRefusalKind::Store, e.to_string(), advice));
            entry.gone |= is_new;
            return self.reconcile(id);
        }
        match &mut entry.pending {
            Some(Pending { change: PendingChange::Change(settings), generation, .. }) => {
                std::mem::swap(&mut **settings, &mut entry.settings);
                entry.generation = *generation;
                entry.show(run_vote, run_retry);
            }
            Some(Pending { change: PendingChange::Remove, .. }) => entry.gone = true,
            Some(Pending { change: PendingChange::Add, .. }) | None => {}
        }
        self.reconcile(id);
    }

    /// Undoes a requested change whose source cannot be opened. Returns false if no request was pending.
    pub(super) fn undo(&mut self, id: &str, error: &Error) -> bool {
        let Some(entry) = self.entries.get_mut(id) else { return false };
        let Some(Pending { change, .. }) = &mut entry.pending else { return false };
        let before = match change {
            PendingChange::Add => None,
            PendingChange::Change(before) => Some((**before).clone()),
            PendingChange::Remove => return false,
        };
        entry.refuse(StreamRefusal::new(StreamRefusalKind::Source, error.to_string(), "correct the stream and retry"));
        entry.phase = Phase::Idle;
        match before {
            None => {
                entry.gone = true;
                if let Some(store) = &self.tools.store {
                    store.delete(id, Box::new(|_| ()));
                }
                self.reconcile(id);
            }
            Some(before) => {
                entry.settings = before;
                self.show_previous(id);
                self.save(id);
            }
        }
        true
    }

    /// Publishes the previous settings as a new version: a client that has read the refused ones must read again before
    /// it changes them.
    fn show_previous(&mut self, id: &str) {
        let generation = self.next_generation();
        let (vote, retry) = (self.vote, self.rules.retry);
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.generation = generation;
        entry.handle.set_source(&entry.settings.uri, entry.pace_before);
        entry.show(vote, retry);
    }
}

type Answer = oneshot::Sender<StreamOutcome>;

fn unknown(id: &str) -> StreamRefusal {
    StreamRefusal::new(
        StreamRefusalKind::Unknown,
        format!("there is no stream {id:?}"),
        "GET /api/v1/streams lists the ids",
    )
}
