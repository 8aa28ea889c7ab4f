//! A source that is one thread: for sources of your own, and for `replay.rs`.

use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use super::Source;
use super::outlet::{Outlet, Stopper};
use touchline_core::error::Result;
use touchline_core::item::{End, MediaItem, Pace};
use touchline_core::threads;

/// Starts `body` on a thread called `name`. It sends its items through the outlet, returns soon after [`Outlet::send`] fails or
/// [`Outlet::stopped`] is true, and gives the end, which is sent for it.
///
/// # Errors
/// `Error::Internal` when the system has no thread left.
pub fn start(
    name: &str,
    pace: Pace,
    to: Sender<MediaItem>,
    body: impl FnOnce(&Outlet) -> End + Send + 'static,
) -> Result<Box<dyn Source>> {
    let outlet = Outlet::new(to);
    let stopper = outlet.stopper();
    let thread = threads::spawn(name, move || {
        let end = body(&outlet);
        outlet.send_end(end);
    })?;
    Ok(Box::new(Threaded { pace, stopper, thread: Some(thread) }))
}

struct Threaded {
    pace: Pace,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Source for Threaded {
    fn pace(&self) -> Pace {
        self.pace
    }

    fn stop(&mut self) {
        self.stopper.stop();
    }
}

impl Drop for Threaded {
    fn drop(&mut self) {
        self.stopper.abandon();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread was printed where it happened; there is no one to hand it to here.
            let _ = thread.join();
        }
    }
}
