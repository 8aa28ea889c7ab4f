//! What a person does with a fleet: adds and removes streams, moves one, drains a machine, rolls a pack out.

mod packs;

use tokio::runtime::Runtime;

pub use self::packs::short;
use super::view::FleetView;
use super::{
    FleetKey, FleetSnapshot, FleetStore, FleetStoreError, FleetValue, Holder, Lease, NodeRecord, NodeState,
    StreamRecord,
};
use crate::config::FleetSettings;
use touchline_core::error::{Error, Result};

/// How often a change is tried again that another one has overtaken.
const TRIES: usize = 5;

/// A connection to the store of a fleet. Its methods wait.
pub struct FleetAdmin {
    store: FleetStore,
    runtime: Runtime,
    name: String,
    place: String,
}

impl FleetAdmin {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Output`] if the store cannot be reached.
    pub fn connect(settings: &FleetSettings) -> Result<Self> {
        // Two threads: one serves the connection while a method waits.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Error::Internal(format!("cannot start the asynchronous runtime: {e}")))?;
        let (name, place) = (settings.name.clone(), settings.sink.receiver.shown());
        let store = runtime.block_on(FleetStore::connect(settings, "command-line"));
        let store = store.map_err(|e| Error::output(&place, e.to_string(), "then retry"))?;
        Ok(Self { store, runtime, name, place })
    }

    fn snapshot(&self) -> Result<FleetSnapshot> {
        let all = self.runtime.block_on(self.store.snapshot());
        all.map_err(|e| Error::output(&self.place, e.to_string(), "check the server and the rights of this login"))
    }

    /// Changes one key: `change` gets all keys, and returns the key with its new value, or `None` in place of a value to delete it.
    fn change(&self, change: impl Fn(&FleetSnapshot) -> Result<(FleetKey, Option<FleetValue>)>) -> Result<()> {
        for _ in 0..TRIES {
            let all = self.snapshot()?;
            let (key, value) = change(&all)?;
            let revision = all.get(&key).map(|(_, revision)| *revision);
            let written = self.runtime.block_on(async {
                match (value, revision) {
                    (Some(value), revision) => self.store.put(&key, &value, revision).await.map(drop),
                    (None, Some(revision)) => self.store.delete(&key, revision).await,
                    (None, None) => Ok(()),
                }
            });
            match written {
                Ok(()) => return Ok(()),
                Err(FleetStoreError::Conflict) => {}
                Err(FleetStoreError::Unavailable) => break,
            }
        }
        Err(Error::output(
            &self.place,
            "the change is not acknowledged",
            "check with `touchline stream list`, and retry",
        ))
    }

    /// The fleet.
    ///
    /// # Errors
    /// [`Error::Output`] if the store cannot be read.
    pub fn view(&self) -> Result<FleetView> {
        let all = self.snapshot()?;
        let nodes = all.iter().filter_map(|(key, (value, _))| match (key, value) {
            (FleetKey::Node(name), FleetValue::Node(node)) => Some((name, node)),
            _ => None,
        });
        let streams = all.iter().filter_map(|(key, (value, _))| match (key, value) {
            (FleetKey::Stream(id), FleetValue::Stream(stream)) => {
                let lease = match all.get(&FleetKey::Lease(id.clone())) {
                    Some((FleetValue::Lease(lease), _)) => Some(lease),
                    _ => None,
                };
                Some((id, stream, lease))
            }
            _ => None,
        });
        let mut view = FleetView::new(&self.name, nodes, streams);
        let rollout = match all.get(&FleetKey::Rollout) {
            Some((FleetValue::Rollout(rollout), _)) => Some(&**rollout),
            _ => None,
        };
        let reports = all.iter().filter_map(|(key, (value, _))| match (key, value) {
            (FleetKey::Pack(name), FleetValue::Pack(report)) => Some((name, report)),
            _ => None,
        });
        view.add_packs(rollout, reports);
        Ok(view)
    }

    /// Adds a stream, or replaces its definition.
    ///
    /// # Errors
    /// [`Error::Usage`] if it exists and `replaces` is false, [`Error::Output`] if the change is not acknowledged.
    pub fn add(&self, id: &str, stream: &StreamRecord, replaces: bool) -> Result<()> {
        let key = FleetKey::Stream(id.into());
        self.change(|all| {
            if all.contains_key(&key) && !replaces {
                let text = format!("stream {id:?} exists already; choose another name, or give --replace");
                return Err(Error::Usage(text));
            }
            Ok((key.clone(), Some(FleetValue::Stream(stream.clone()))))
        })
    }

    /// Removes a stream. Its lease stays, so that a stream of that name continues with higher epochs.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none, [`Error::Output`] if the change is not acknowledged.
    pub fn remove(&self, id: &str) -> Result<()> {
        let key = FleetKey::Stream(id.into());
        self.change(|all| if all.contains_key(&key) { Ok((key.clone(), None)) } else { Err(unknown_stream(id)) })
    }

    /// Requests a machine to take over a stream. Its owner hands it over.
    ///
    /// # Errors
    /// [`Error::Usage`] if the machine cannot, [`Error::Output`] if the change is not acknowledged.
    pub fn move_to(&self, id: &str, node: &str) -> Result<()> {
        let key = FleetKey::Lease(id.into());
        self.change(|all| {
            let Some((FleetValue::Stream(stream), _)) = all.get(&FleetKey::Stream(id.into())) else {
                return Err(unknown_stream(id));
            };
            let record = node_of(all, node)?;
            if record.state != NodeState::Active {
                return Err(Error::Usage(format!("machine {node:?} takes no streams; choose another one")));
            }
            if !stream.needs.iter().all(|(name, value)| record.labels.get(name) == Some(value)) {
                let text =
                    format!("machine {node:?} does not have the labels that stream {id:?} needs; choose another one");
                return Err(Error::Usage(text));
            }
            let Some((FleetValue::Lease(lease), _)) = all.get(&key) else {
                return Err(Error::Usage(format!("no machine watches stream {id:?}; wait until one does")));
            };
            if lease.owner.as_ref().is_some_and(|owner| *owner.node == *node) {
                return Err(Error::Usage(format!("machine {node:?} watches stream {id:?} already")));
            }
            let next = Holder { node: node.into(), session: record.session };
            Ok((key.clone(), Some(FleetValue::Lease(Lease { next: Some(next), ..lease.clone() }))))
        })
    }

    /// Requests a machine to hand all its streams over and to leave.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none, [`Error::Output`] if the change is not acknowledged.
    pub fn drain(&self, node: &str) -> Result<()> {
        self.change(|all| {
            let record = node_of(all, node)?;
            if record.state == NodeState::Gone {
                return Err(Error::Usage(format!("machine {node:?} is gone already")));
            }
            let record = NodeRecord { state: NodeState::Draining, ..record.clone() };
            Ok((FleetKey::Node(node.into()), Some(FleetValue::Node(record))))
        })
    }
}

fn unknown_stream(id: &str) -> Error {
    Error::Usage(format!("there is no stream {id:?}; `touchline stream list` lists them"))
}

fn node_of<'a>(all: &'a FleetSnapshot, node: &str) -> Result<&'a NodeRecord> {
    match all.get(&FleetKey::Node(node.into())) {
        Some((FleetValue::Node(record), _)) => Ok(record),
        _ => Err(unknown_node(node)),
    }
}

fn unknown_node(node: &str) -> Error {
    Error::Usage(format!("there is no machine {node:?}; `touchline stream list` lists them"))
}
