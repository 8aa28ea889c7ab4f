//! What the API requests of the stream manager: looked at here, stored, and then carried out by [`StreamManager::reconcile`].

use tokio::sync::oneshot;

use super::entry::{Pending, PendingChange, Phase};
use super::{Driver, InitialStream, StreamManager};
use crate::config::{StreamSettings, free_id};
use crate::publish::hub::{Origin, Restored};
use crate::publish::streams::{
    NewStream, StreamChange, StreamControl, StreamOutcome, StreamPatch, StreamRefusal, StreamRefusalKind, StreamRequest,
};
use crate::store::Stored;
use touchline_core::error::{Error, Result};
use touchline_media::uri::Location;

impl<H: Driver + 'static> StreamManager<H> {
    pub(super) fn handle_request(&mut self, request: StreamRequest) {
        let StreamRequest { wanted, answer } = request;
        let refused = if self.stopping.is_some() {
            Err((StreamControl::shutting_down(), answer))
        } else {
            match wanted {
                StreamChange::Add(new) => self.handle_add(new, answer),
                StreamChange::Change { id, patch, generation } => self.handle_change(&id, &patch, generation, answer),
                StreamChange::Remove { id, generation } => self.handle_remove(&id, generation, answer),
            }
        };
        if let Err((refused, answer)) = refused {
            // Who asked may be gone.
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
        // From now on somebody counts on the program being there.
        self.rules.is_service = true;
        match self.enter(stream) {
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
        let most = self.rules.max_streams;
        if self.entries.len() >= most {
            let advice = "remove one first, or start with another --max-streams";
            return Err(StreamRefusal::new(
                StreamRefusalKind::Limit,
                format!("there are {most} streams, as many as may be"),
                advice,
            ));
        }
        let id = match &new.id {
            Some(id) if self.entries.contains_key(id) => {
                let advice = "choose another id, or change the stream with PATCH";
                return Err(StreamRefusal::new(
                    StreamRefusalKind::Duplicate,
                    format!("there is a stream {id:?}"),
                    advice,
                ));
            }
            Some(id) => id.clone(),
            None => free_id(&new.uri, |id| self.entries.contains_key(id)),
        };
        let settings = new.settings(id, self.rules.latency_ms);
        self.fits(&settings)?;
        Ok(InitialStream { settings, origin: Origin::Api, generation: None, restored: Restored::default() })
    }

    /// Whether the API may request for these settings.
    fn fits(&self, settings: &StreamSettings) -> Result<(), StreamRefusal> {
        Location::parse(&settings.uri)
            .map_err(|e| StreamRefusal::new(StreamRefusalKind::Invalid, e.to_string(), "correct the uri"))?;
        settings
            .vote
            .over(self.vote)
            .map(drop)
            .map_err(|e| StreamRefusal::new(StreamRefusalKind::Invalid, e, "correct the values of vote"))
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
        // Asked for by name: also a source that has come to its end is opened.
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
        // Whatever is being opened can be removed: that may hang, and its answer with it.
        if let Some(entry) =
            self.entries.get_mut(id).filter(|e| e.is_opening_asked() && generation.is_none_or(|g| g == e.generation))
        {
            let advice = "request again, if the stream is wanted after all";
            entry.refuse(StreamRefusal::new(
                StreamRefusalKind::Busy,
                format!("{id:?} was removed before it was open"),
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

    /// Whether the API may change stream `id` now.
    fn changeable(&self, id: &str, generation: Option<u64>) -> Result<(), StreamRefusal> {
        let entry = self.entries.get(id).ok_or_else(|| unknown(id))?;
        let owner = match entry.origin {
            Origin::Api => None,
            Origin::Config => Some(("the configuration file", "change it there and send SIGHUP")),
            Origin::CommandLine => Some(("the command line", "start the program again without it")),
        };
        if let Some((owner, advice)) = owner {
            return Err(StreamRefusal::new(
                StreamRefusalKind::NotOwned,
                format!("stream {id:?} belongs to {owner}"),
                advice,
            ));
        }
        if entry.pending.is_some() || entry.gone {
            let advice = "request again when it is done; GET shows its state";
            return Err(StreamRefusal::new(
                StreamRefusalKind::Busy,
                format!("a change of {id:?} is under way"),
                advice,
            ));
        }
        match generation {
            Some(wanted) if wanted != entry.generation => {
                let error = format!("the settings of {id:?} are version {} by now, not {wanted}", entry.generation);
                Err(StreamRefusal::new(
                    StreamRefusalKind::Outdated,
                    error,
                    "read the stream again and request with its new ETag",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Tells the store what is to come; it happens when that is durable.
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
            // The stream manager is gone only when the program ends.
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

    /// The store has answered.
    pub(super) fn saved(&mut self, id: &str, result: Result<()>) {
        let (run_vote, run_retry) = (self.vote, self.rules.retry);
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.saving = false;
        if let Err(e) = result {
            let advice = "make room on the disk of --state, and request again";
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

    /// The source of a stream that somebody asked for cannot be opened: as if it had not been asked for. False when nobody
    /// asked.
    pub(super) fn take_back(&mut self, id: &str, error: &Error) -> bool {
        let Some(entry) = self.entries.get_mut(id) else { return false };
        let Some(Pending { change, .. }) = &mut entry.pending else { return false };
        let before = match change {
            PendingChange::Add => None,
            PendingChange::Change(before) => Some((**before).clone()),
            PendingChange::Remove => return false,
        };
        entry.refuse(StreamRefusal::new(
            StreamRefusalKind::Source,
            error.to_string(),
            "correct the stream and request again",
        ));
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
                self.show_again(id);
                self.save(id);
            }
        }
        true
    }

    /// The API shows what is in force again, as another version: whoever has read the one that was refused must not change
    /// what he has not seen.
    fn show_again(&mut self, id: &str) {
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
        "see /api/v1/streams for the ids there are",
    )
}
