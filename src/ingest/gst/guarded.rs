//! Holds a pipeline to the policy of its source, and keeps servers that misbehave away from GStreamer.

use std::sync::Arc;

use crossbeam_channel::Sender;
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use tokio::sync::watch;

use super::causes;
use super::graph::Graph;
use crate::ingest::guard::passage::Passage;
use crate::ingest::guard::{Refusal, SourcePolicy};
use crate::ingest::incident::Cause;
use crate::ingest::outlet::Outlet;
use crate::ingest::uri::{Kind, Location};
use crate::ingest::{MediaItem, Pace, Source};

/// What GStreamer opens in place of `uri`, and the passage that it goes through, if any.
///
/// # Errors
/// What the policy refuses, or what is wrong.
pub(super) fn place(
    policy: &Arc<SourcePolicy>,
    id: &str,
    uri: &str,
    location: Location,
) -> Result<(Location, Option<Passage>), Refusal> {
    let passage = match location.kind {
        Kind::Http | Kind::Hls => Passage::web(policy.clone(), id, &location.uri),
        Kind::Rtsp => Passage::rtsp(policy.clone(), id, &location.uri),
        _ => {
            let uri = policy.place(uri)?;
            return Ok((Location { uri: uri.unwrap_or(location.uri), ..location }, None));
        }
    };
    match passage {
        Ok((passage, uri)) => Ok((Location { uri, ..location }, Some(passage))),
        Err(e) => Err(Refusal {
            kind: Cause::Other,
            cause: crate::redact::text(&format!("the stream's passage does not open: {e}")),
            advice: "check the limits on open files and threads".into(),
        }),
    }
}

/// Whether what is there may be an HLS playlist. Manifests of DASH and Smooth Streaming go by their names.
pub(super) fn may_be_hls(location: &Location) -> bool {
    let path = location.uri.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    let is_other = path.ends_with(".mpd") || path.contains(".ism/") || path.ends_with(".ism");
    matches!(location.kind, Kind::Hls | Kind::Http) && !is_other
}

/// A source that was refused before there was a pipeline.
pub(super) fn refused(refusal: Refusal, pace: Pace, to: Sender<MediaItem>) -> Box<dyn Source> {
    Outlet::new(to).send_end(refusal.end());
    Box::new(Refused(pace))
}

struct Refused(Pace);

impl Source for Refused {
    fn pace(&self) -> Pace {
        self.0
    }

    fn stop(&mut self) {}
}

/// Ends the session on a refusal, and keeps elements out that fetch what data name.
pub(super) fn connect(pipeline: &gst::Pipeline, kind: Kind, graph: &Arc<Graph>, passage: Option<&Passage>) {
    if let Some(passage) = passage {
        let graph = Arc::downgrade(graph);
        passage.on_refusal(Box::new(move |refusal| {
            if let Some(graph) = graph.upgrade() {
                graph.fail(refusal.end());
            }
        }));
    }
    // What comes from a web server comes through the passage, playlists rewritten. In all else a playlist, which can hide in
    // any data, would lead past it.
    let may_hls = matches!(kind, Kind::Http | Kind::Hls);
    let through_passage = passage.is_some();
    let exposed = passage.map(Passage::exposed);
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        watch(&element, may_hls, through_passage, graph);
    }
    let weak = Arc::downgrade(graph);
    pipeline.connect_deep_element_added(move |_, _, element| {
        if let Some(graph) = weak.upgrade() {
            watch(element, may_hls, through_passage, &graph);
        }
        if let Some(exposed) = exposed.as_ref().filter(|_| is_hls(&factory(element))) {
            tell_first_output(element, exposed);
        }
    });
}

/// Says when `client` sends the first thing out: a pad alone is there a moment before the client counts it.
fn tell_first_output(client: &gst::Element, exposed: &watch::Sender<bool>) {
    let exposed = exposed.clone();
    client.connect_pad_added(move |_, pad| {
        let exposed = exposed.clone();
        pad.add_probe(gst::PadProbeType::DATA_DOWNSTREAM, move |_, _| {
            exposed.send_replace(true);
            gst::PadProbeReturn::Remove
        });
    });
}

fn is_hls(factory: &str) -> bool {
    matches!(factory, "hlsdemux" | "hlsdemux2")
}

/// Elements that fetch addresses which their data name. Only those of HLS are served by the passage.
fn fetches(factory: &str, may_hls: bool) -> bool {
    is_hls(factory) && !may_hls
        || matches!(
            factory,
            "dashdemux" | "dashdemux2" | "mssdemux" | "mssdemux2" | "sdpdemux" | "sdpsrc" | "playlistdemux"
        )
}

/// Lets `element`, if it chooses elements by what the data are, choose none that fetch; and no data into one that fetches and
/// was chosen without asking.
fn watch(element: &gst::Element, may_hls: bool, through_passage: bool, graph: &Arc<Graph>) {
    let name = factory(element);
    if through_passage && name == "souphttpsrc" {
        // The passage is on this machine, and not behind a proxy that the environment may name.
        element.set_property_from_str("proxy", "");
    }
    let graph = Arc::downgrade(graph);
    if fetches(&name, may_hls) {
        if let Some(graph) = graph.upgrade() {
            refuse(&graph);
        }
        // It is linked after this: nothing has come to it yet.
        for pad in element.sink_pads() {
            pad.add_probe(gst::PadProbeType::DATA_DOWNSTREAM, |_, _| gst::PadProbeReturn::Drop);
        }
        return;
    }
    if glib::subclass::SignalId::lookup("autoplug-select", element.type_()).is_none() {
        return;
    }
    element.connect("autoplug-select", false, move |args| {
        let factory = args.get(3).and_then(|v| v.get::<gst::ElementFactory>().ok())?;
        let pad = args.get(1).and_then(|v| v.get::<gst::Pad>().ok());
        // A playlist inside other data was not rewritten: only what comes from the server as it is was.
        let is_hidden = is_hls(&factory.name()) && !pad.is_some_and(|pad| is_as_it_came(&pad));
        let fetches = is_hidden || fetches(&factory.name(), may_hls);
        if let Some(graph) = graph.upgrade().filter(|_| fetches) {
            refuse(&graph);
        }
        let class = glib::EnumClass::with_type(glib::Type::from_name("GstAutoplugSelectResult")?)?;
        class.to_value_by_nick(if fetches { "skip" } else { "try" })
    });
}

fn refuse(graph: &Graph) {
    graph.fail(causes::failed(
        Cause::Refused,
        "the data are a list of addresses, which is not followed here",
        "give an address of the list itself, or the list's own if it is HLS on a web server",
    ));
}

/// The name of an element's factory; empty where it has none.
fn factory(element: &gst::Element) -> String {
    element.factory().map_or_else(String::new, |factory| factory.name().into())
}

/// Whether what leaves `pad` is what a web server sent, with nothing between that makes other data of it.
fn is_as_it_came(pad: &gst::Pad) -> bool {
    let mut pad = pad.clone();
    // Longer chains are not built.
    for _ in 0..16 {
        let Some(element) = pad.parent_element() else { return false };
        match factory(&element).as_str() {
            "souphttpsrc" => return true,
            "typefind" | "queue" | "queue2" => {}
            _ => return false,
        }
        match element.static_pad("sink").and_then(|sink| sender(&sink)) {
            Some(before) => pad = before,
            None => return false,
        }
    }
    false
}

/// The pad of an element that sends to `sink`, through the walls of bins.
fn sender(sink: &gst::Pad) -> Option<gst::Pad> {
    let mut peer = sink.peer()?;
    loop {
        peer = match (peer.downcast_ref::<gst::GhostPad>(), peer.downcast_ref::<gst::ProxyPad>()) {
            // Out of a bin.
            (Some(ghost), _) => ghost.target()?,
            // Into one: what stands behind the inner side of its wall.
            (None, Some(inner)) => inner.internal()?.peer()?,
            (None, None) => return Some(peer),
        };
    }
}
