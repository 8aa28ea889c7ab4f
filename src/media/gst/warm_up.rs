//! Initialises GLib's network types and the elements of outputs once, on one thread, before sources and outputs start.
//!
//! GLib registers its types on first use. Two threads that do so at the same time can deadlock (seen with GLib 2.74): one
//! registers `GSocketAddress` and waits for the lock of class initialisation, the other holds that lock while it initialises
//! `GSocketClient` and waits for `GSocketAddress`. With an RTSP and an HLS stream that started together this happened about once
//! in fifty starts, and then no stream of the program started.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

/// Time limit for each client. They connect to this process over the loopback, which takes milliseconds.
const LIMIT: gst::ClockTime = gst::ClockTime::from_seconds(2);

/// Initialises the network types. Concurrent callers wait for the first one.
pub(super) fn network() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        if let Err(cause) = try_clients(LIMIT) {
            // Streams work without this, except for the race above.
            tracing::debug!("the network clients could not be initialised: {cause}");
        }
    });
}

/// The elements that outputs consist of, also those that `hlssink2` makes while it plays.
const OUTPUT_ELEMENTS: [&str; 22] = [
    "appsrc",
    "decodebin",
    "deinterlace",
    "videoflip",
    "videoconvert",
    "overlaycomposition",
    "queue",
    "x264enc",
    "h264parse",
    "audioconvert",
    "audioresample",
    "avenc_aac",
    "aacparse",
    "mp4mux",
    "matroskamux",
    "mpegtsmux",
    "flvmux",
    "hlssink2",
    "giostreamsink",
    "rtmp2sink",
    "srtsink",
    "udpsink",
];

/// Initialises the classes of the elements of outputs. Concurrent callers wait for the first one. Outputs open beside running streams, where
/// the first use of a class can meet that of another one.
pub(super) fn outputs() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        for factory in OUTPUT_ELEMENTS {
            // One that is missing fails in the output that needs it.
            drop(gst::ElementFactory::make(factory).build());
        }
    });
}

/// Runs each kind of client against a local server that rejects it, which uses all of their types from name look-up to TLS.
/// Returns how many of them reported the rejection within `limit`.
fn try_clients(limit: gst::ClockTime) -> Result<usize, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = std::thread::Builder::new().name("warm-up".into());
        server.spawn_scoped(scope, || refuse(&listener, &over)).map_err(|e| e.to_string())?;
        let mut reports = 0;
        for (factory, scheme) in [("souphttpsrc", "http"), ("souphttpsrc", "https"), ("rtspsrc", "rtsp")] {
            match try_client(factory, &format!("{scheme}://{address}/"), limit) {
                Ok(reported) => reports += usize::from(reported),
                Err(cause) => tracing::debug!("initialising {factory}: {cause}"),
            }
        }
        over.store(true, Ordering::Release);
        wake(address);
        Ok(reports)
    })
}

/// Answers every connection with "not found", in a form that HTTP and RTSP clients understand.
fn refuse(listener: &TcpListener, over: &AtomicBool) {
    for connection in listener.incoming() {
        if over.load(Ordering::Acquire) {
            return;
        }
        if let Ok(connection) = connection {
            // An error ends the client as well.
            let _ = refuse_one(connection);
        }
    }
}

fn refuse_one(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut request = [0; 1024];
    let n = connection.read(&mut request)?;
    let protocol = if request[..n].windows(5).any(|w| w == b"RTSP/") { "RTSP/1.0" } else { "HTTP/1.1" };
    write!(connection, "{protocol} 404 Not Found\r\nCSeq: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn wake(address: SocketAddr) {
    let _ = TcpStream::connect_timeout(&address, Duration::from_millis(500));
}

/// Runs one source against the server until it reports its failure, or until `limit`. Returns whether it reported.
fn try_client(factory: &str, uri: &str, limit: gst::ClockTime) -> Result<bool, gst::glib::BoolError> {
    let source = gst::ElementFactory::make(factory).property("location", uri).build()?;
    // The loopback must not be reached through a proxy from the environment.
    for (property, value) in [("proxy", ""), ("retries", "0"), ("ssl-strict", "false"), ("protocols", "tcp")] {
        if source.has_property(property) {
            source.set_property_from_str(property, value);
        }
    }
    let pipeline = gst::Pipeline::new();
    pipeline.add(&source)?;
    if factory == "souphttpsrc" {
        let sink = gst::ElementFactory::make("fakesink").build()?;
        pipeline.add(&sink)?;
        source.link(&sink)?;
    }
    // May fail, with the reason on the bus. Either way the client has used its types.
    let _ = pipeline.set_state(gst::State::Playing);
    let ends = [gst::MessageType::Error, gst::MessageType::Eos];
    let reported = pipeline.bus().is_some_and(|bus| bus.timed_pop_filtered(limit, &ends).is_some());
    let _ = pipeline.set_state(gst::State::Null);
    Ok(reported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_elements_of_outputs_exist() {
        super::super::init().unwrap();
        for factory in OUTPUT_ELEMENTS {
            assert!(gst::ElementFactory::make(factory).build().is_ok(), "{factory}");
        }
    }

    #[test]
    fn every_client_connects_and_returns() {
        super::super::init().unwrap();
        // Far longer than a busy machine needs: a client that does not return is the failure.
        assert_eq!(try_clients(gst::ClockTime::from_seconds(60)).unwrap(), 3);
        for (factory, scheme) in [("souphttpsrc", "http"), ("rtspsrc", "rtsp")] {
            assert!(gst::ElementFactory::find(factory).is_some(), "{factory} for {scheme}");
        }
    }
}
