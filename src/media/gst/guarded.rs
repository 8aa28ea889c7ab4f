//! Applies the source policy to a pipeline.

use std::sync::Arc;

use crossbeam_channel::Sender;
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

use super::causes;
use super::graph::Graph;
use crate::Source;
use crate::guard::proxy::LoopbackProxy;
use crate::guard::{Refusal, SourcePolicy};
use crate::outlet::Outlet;
use crate::uri::{Kind, Location};
use touchline_core::cause::Cause;
use touchline_core::item::{MediaItem, Pace};

/// Returns the location that GStreamer opens instead of `uri`, and its loopback proxy, if it needs one.
///
/// # Errors
/// If the policy rejects the source, or the proxy cannot be opened.
pub(super) fn route(
    policy: &Arc<SourcePolicy>,
    id: &str,
    uri: &str,
    location: Location,
) -> Result<(Location, Option<LoopbackProxy>), Refusal> {
    let proxy = match location.kind {
        Kind::Http => LoopbackProxy::web(policy.clone(), id, &location.uri),
        Kind::Rtsp => LoopbackProxy::rtsp(policy.clone(), id, &location.uri),
        _ => {
            let uri = policy.pinned_uri(uri)?;
            return Ok((Location { uri: uri.unwrap_or(location.uri), ..location }, None));
        }
    };
    match proxy {
        Ok((proxy, uri)) => Ok((Location { uri, ..location }, Some(proxy))),
        Err(e) => Err(Refusal {
            kind: Cause::Other,
            cause: touchline_core::redact::text(&format!("cannot open the stream's proxy: {e}")),
            advice: "check the limits on open files and threads".into(),
        }),
    }
}

/// A source that ends at once with `refusal`.
pub(crate) fn refused(refusal: Refusal, pace: Pace, to: Sender<MediaItem>) -> Box<dyn Source> {
    Outlet::new(to).send_end(refusal.end());
    Box::new(RefusedSource(pace))
}

struct RefusedSource(Pace);

impl Source for RefusedSource {
    fn pace(&self) -> Pace {
        self.0
    }

    fn stop(&mut self) {}
}

/// Ends the session on a refusal, and excludes elements that fetch addresses in the data.
pub(super) fn connect(pipeline: &gst::Pipeline, graph: &Arc<Graph>, proxy: Option<&LoopbackProxy>) {
    if let Some(proxy) = proxy {
        let graph = Arc::downgrade(graph);
        proxy.on_refusal(Box::new(move |refusal| {
            if let Some(graph) = graph.upgrade() {
                graph.fail(refusal.end());
            }
        }));
    }
    // A list of addresses, which any data may contain, would bypass the policy.
    let through_proxy = proxy.is_some();
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        watch(&element, through_proxy, graph);
    }
    let weak = Arc::downgrade(graph);
    pipeline.connect_deep_element_added(move |_, _, element| {
        if let Some(graph) = weak.upgrade() {
            watch(element, through_proxy, &graph);
        }
    });
}

/// Whether an element fetches addresses in its data.
fn fetches(factory: &str) -> bool {
    matches!(
        factory,
        "hlsdemux"
            | "hlsdemux2"
            | "dashdemux"
            | "dashdemux2"
            | "mssdemux"
            | "mssdemux2"
            | "sdpdemux"
            | "sdpsrc"
            | "playlistdemux"
    )
}

/// Prevents `element`, if it selects elements by content, from selecting one that fetches. An element that fetches and was added
/// anyway receives no data.
fn watch(element: &gst::Element, through_proxy: bool, graph: &Arc<Graph>) {
    let name = factory(element);
    if through_proxy && name == "souphttpsrc" {
        // The loopback proxy is on this machine: an HTTP proxy from the environment must not be used.
        element.set_property_from_str("proxy", "");
    }
    let graph = Arc::downgrade(graph);
    if fetches(&name) {
        if let Some(graph) = graph.upgrade() {
            refuse(&graph);
        }
        // It is linked after this, so it has received no data yet.
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
        let fetches = fetches(&factory.name());
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
        "the source is a list of addresses, and lists are not followed",
        "give one of the addresses in it; for HLS give the playlist's http(s) address",
    ));
}

/// The name of an element's factory; empty where it has none.
fn factory(element: &gst::Element) -> String {
    element.factory().map_or_else(String::new, |factory| factory.name().into())
}
