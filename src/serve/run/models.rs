//! The threads that run models, and what people and the fleet do with their packs.

use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use touchline_compute::features::signal::SignalConfig;
use touchline_compute::models::pack::Pack;
use touchline_core::error::{Error, Result};

use super::parts::SharedParts;
use super::{RunConfig, TeachConfig};
use crate::control::packs::{PackControl, PackRequest};
use crate::hub::Hub;
use crate::shadow::Shadow;
use crate::teach::learn::{LearnSettings, Learner, ShadowSlot};
use crate::teach::{CorrectionStore, Memory, PastSeconds, TeachAccess, TeachThread};
use crate::update::{UpdateConfig, Updater};
use crate::workers::{Batching, Feeds, PosterThread, Workers};

/// The memory of seconds, the folder of corrections, and what learns from them; [`None`] if nothing can be corrected.
///
/// # Errors
/// A folder that cannot be used, or a program whose path is not known.
pub(super) fn teach(
    config: &RunConfig,
    packs: &UpdateConfig,
    control: &PackControl,
    past: Option<Arc<dyn PastSeconds>>,
    SharedParts { hub, clock, .. }: &SharedParts,
) -> Result<Option<TeachAccess>> {
    let Some(TeachConfig { settings, learns }) = config.teach.clone() else { return Ok(None) };
    let program = std::env::current_exe()
        .map_err(|e| Error::Internal(format!("the path of the program is not known, which learning needs: {e}")))?;
    let rate = config.pack.sample_rate();
    let memory = Arc::new(Memory::new(settings.memory_bytes, settings.memory_s, rate, clock.clone()));
    let store = CorrectionStore::open(settings, hub.classes().clone(), clock.clone(), hub.metrics().clone())?;
    let store = Arc::new(store.with_past(past));
    let settings = LearnSettings { program, can_learn: learns, root: packs.root.clone() };
    let learner = Learner::new(settings, store.clone(), control.clone(), hub.clone());
    hub.set_teaches(true);
    Ok(Some(TeachAccess { memory, store, learner }))
}

/// The shadow of packs that have learned, and of rollouts of the fleet.
struct LaterShadow {
    shadow: Arc<Shadow>,
    packs: UpdateConfig,
    hub: Hub,
}

impl ShadowSlot for LaterShadow {
    fn start(&self, dir: &Path) -> Result<()> {
        let (running, _) =
            self.hub.pack_status().running().ok_or_else(|| Error::Internal("there is no running pack".into()))?;
        let mut pack = Pack::open(dir)?;
        pack.precision = running.precision;
        pack.placement = running.placement.clone();
        self.shadow.start(pack, self.packs.shown(dir), &running)
    }

    fn stop(&self) {
        self.shadow.stop();
    }
}

/// The threads that run models. The fields are in the order in which they are dropped if a later part fails to start.
pub(super) struct ModelThreads {
    pub(super) updater: Updater,
    pub(super) workers: Workers,
    pub(super) shadow: Option<Arc<Shadow>>,
    /// Compares packs of the fleet.
    pub(super) fleet_shadow: Option<Arc<dyn ShadowSlot>>,
    pub(super) teach: Option<(TeachThread, Learner)>,
    pub(super) posters: Option<PosterThread>,
}

/// How the models are used.
pub(super) struct ModelUse {
    batching: Batching,
    signals: SignalConfig,
    is_in_fleet: bool,
}

/// How the models of a run are used.
pub(super) fn model_use(config: &RunConfig) -> ModelUse {
    ModelUse { batching: config.batching, signals: config.signals, is_in_fleet: config.fleet.is_some() }
}

impl ModelThreads {
    /// Loads and warms up the packs: the one that decides, and the shadow.
    ///
    /// # Errors
    /// A pack that cannot be used, or a thread that cannot be started.
    pub(super) fn start(
        (pack, shadow_pack): (Pack, Option<Pack>),
        ModelUse { batching, signals, is_in_fleet }: ModelUse,
        (packs, control, requests): (UpdateConfig, PackControl, Receiver<PackRequest>),
        teach: Option<TeachAccess>,
        shared: &SharedParts,
    ) -> Result<Self> {
        let (hub, clock) = (&shared.hub, &shared.clock);
        let mut feeds = Feeds::default();
        let memory = teach.as_ref().map(|teach| teach.memory.clone());
        let may_start = shadow_pack.is_some() || memory.is_some() || is_in_fleet;
        let shadow = may_start.then(|| Arc::new(Shadow::new(hub, memory)));
        feeds.shadow = shadow.as_ref().map(|shadow| shadow.feed());
        if let (Some(shadow), Some(other)) = (&shadow, shadow_pack) {
            let shown = packs.shown(&other.dir);
            shadow.start(other, shown, &pack)?;
        }
        let teach = match (teach, &shadow) {
            (Some(TeachAccess { memory, learner, .. }), Some(shadow)) => {
                let slot = LaterShadow { shadow: shadow.clone(), packs: packs.clone(), hub: hub.clone() };
                learner.connect(Arc::new(slot));
                let (thread, feed) = TeachThread::start(memory, hub.metrics().clone(), clock.clone())?;
                feeds.teach = Some(feed);
                Some((thread, learner))
            }
            _ => None,
        };
        let fleet_shadow = shadow.as_ref().filter(|_| is_in_fleet).map(|shadow| {
            let slot = LaterShadow { shadow: shadow.clone(), packs: packs.clone(), hub: hub.clone() };
            Arc::new(slot) as Arc<dyn ShadowSlot>
        });
        // Only a store keeps them.
        let posters = match shared.store.is_some() {
            true => {
                let (thread, feed) = PosterThread::start(hub)?;
                feeds.posters = Some(feed);
                Some(thread)
            }
            false => None,
        };
        let workers = Workers::start_with_feeds(pack, batching, hub.metrics().clone(), clock.clone(), feeds)?;
        let workers = workers.with_signals(signals);
        let (models, swapper) = (workers.models().clone(), workers.swapper());
        let updater = Updater::start(packs, models, swapper, (control, requests), hub.clone(), clock.clone())?;
        Ok(Self { updater, workers, shadow, fleet_shadow, teach, posters })
    }
}
