//! Scores recordings of a fleet beside the streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::time::{ClockId, clock_gettime};

use super::parts::SharedParts;
use crate::archive::room::LiveSample;
use crate::archive::{ArchiveHost, ArchiveParts, LiveLoad};
use crate::config::FleetSettings;
use crate::fleet::FleetHost;
use crate::workers::{Intake, Workers};
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::time::NANOS_PER_SECOND;

impl SharedParts {
    /// Takes recordings of the fleet, if it may.
    ///
    /// # Errors
    /// As [`ArchiveHost::start`].
    pub(super) fn take_recordings(
        &self,
        settings: FleetSettings,
        fleet: &FleetHost,
        workers: &Workers,
    ) -> Result<Option<ArchiveHost>> {
        if !settings.archives {
            return Ok(None);
        }
        let program = std::env::current_exe().map_err(|e| {
            Error::Internal(format!("the path of the program is not known, which scoring recordings needs: {e}"))
        })?;
        let live = MachineLoad { intake: workers.intake().clone(), cost: fleet.cost(), clock: self.clock.clone() };
        let (first, hub) = (workers.pack().dir.clone(), self.hub.clone());
        let pack = Box::new(move || hub.pack_status().running().map_or(first.clone(), |(pack, _)| pack.dir.clone()));
        let (metrics, clock) = (self.hub.metrics().clone(), self.clock.clone());
        ArchiveHost::start(ArchiveParts { settings, program, pack, metrics, clock, live: Box::new(live) }).map(Some)
    }
}

/// What the streams of this machine need.
struct MachineLoad {
    intake: Intake,
    cost: Arc<AtomicU32>,
    clock: Arc<dyn Clock>,
}

impl LiveLoad for MachineLoad {
    fn sample(&mut self) -> LiveSample {
        let pressure = self.intake.pressure();
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let [whole, rest] = [used.tv_sec, used.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
        LiveSample {
            now_ns: self.clock.mono_ns(),
            waiting: pressure.waiting,
            sheds: pressure.sheds,
            processor_ns: whole.saturating_mul(NANOS_PER_SECOND).saturating_add(rest),
            cost: self.cost.load(Ordering::Relaxed),
        }
    }
}
