//! Wall time of RTSP streams, from RTCP sender reports.
//!
//! A sender report gives the NTP time of an RTP timestamp (RFC 3550, 6.4.1). GStreamer's jitter buffer emits each
//! report with its `handle-sync` signal, together with the running time of a base RTP timestamp. So the report's RTP timestamp
//! has a PTS and an NTP time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use crate::outlet::Outlet;
use crate::source_clock::{ClockVerdict, SourceClock};
use touchline_core::clock::Clock;
use touchline_core::incident::Incident;
use touchline_core::item::MediaItem;
use touchline_core::time::{NANOS_PER_SECOND, Pts, WallSource, WallTime};

/// Seconds from 1900 (NTP) to 1970 (Unix).
const NTP_TO_UNIX_S: u64 = 2_208_988_800;

/// Unix times before 2000 come from senders that count from their start and have no wall time.
const PLAUSIBLE_FROM_S: u64 = 946_684_800;

/// Maximum error of a sender report, ns: senders take the NTP time when they make the report,
/// up to a frame after the RTP timestamp, and the jitter buffer smooths arrival times by about as much.
const REPORT_UNCERTAINTY_NS: u64 = 40_000_000;

/// Sends [`MediaItem::Wall`] for every trusted sender report of the jitter buffers in `pipeline`, and an incident when `source_clock`
/// begins or ceases to trust them.
pub(super) fn connect(
    pipeline: &gst::Pipeline,
    outlet: Outlet,
    clock: Arc<dyn Clock>,
    source_clock: Arc<Mutex<SourceClock>>,
) {
    pipeline.connect("deep-element-added", false, move |args| {
        let element = args.get(2).and_then(|v| v.get::<gst::Element>().ok())?;
        if element.factory().is_some_and(|f| f.name() == "rtpjitterbuffer") {
            let (outlet, clock, source_clock) = (outlet.clone(), clock.clone(), source_clock.clone());
            // The signal can repeat for one report: once a second is enough.
            let last = AtomicU64::new(u64::MAX);
            element.connect("handle-sync", false, move |args| {
                let report = args.get(1).and_then(|v| v.get::<gst::Structure>().ok())?;
                let (pts, wall) = tie(&report)?;
                if last.swap(pts.second(), Ordering::Relaxed) == pts.second() {
                    return None;
                }
                let arrived_ns = clock.unix_ns();
                let verdict = source_clock.lock().judge(wall.unix_ns, arrived_ns);
                let incident = match verdict {
                    ClockVerdict::Trusted => None,
                    ClockVerdict::TrustedAgain => Some(Incident::ClockPlausible),
                    ClockVerdict::Distrusted => Some(Incident::ClockImplausible),
                    ClockVerdict::StillDistrusted => return None,
                };
                let source = if verdict == ClockVerdict::Distrusted { WallSource::Arrival } else { wall.source };
                let items = incident.map(MediaItem::Incident).into_iter();
                for item in items.chain([MediaItem::Wall { pts, wall: WallTime { source, ..wall } }]) {
                    // Closed means that the session is ending anyway.
                    let _ = outlet.send(item);
                }
                None
            });
        }
        None
    });
}

/// PTS and wall time of the report in `handle-sync`'s structure.
fn tie(report: &gst::StructureRef) -> Option<(Pts, WallTime)> {
    let base_rtp: u64 = report.get("base-rtptime").ok()?;
    let base_ns: u64 = report.get("base-time").ok()?;
    let rate: u32 = report.get("clock-rate").ok()?;
    let report_rtp: u64 = report.get("sr-ext-rtptime").ok()?;
    let buffer: gst::Buffer = report.get("sr-buffer").ok()?;
    let packet = buffer.map_readable().ok()?;
    let unix_ns = sender_report_unix_ns(&packet)?;
    let pts = rtp_to_running_ns(base_rtp, base_ns, rate, report_rtp)?;
    let (source, uncertainty_ns) = (WallSource::RtcpSenderReport, REPORT_UNCERTAINTY_NS);
    Some((Pts(pts), WallTime { unix_ns, source, uncertainty_ns }))
}

/// Running time of extended RTP timestamp `rtp`, given that of `base_rtp`.
fn rtp_to_running_ns(base_rtp: u64, base_ns: u64, rate: u32, rtp: u64) -> Option<u64> {
    if rate == 0 {
        return None;
    }
    let ticks = i128::from(rtp) - i128::from(base_rtp);
    u64::try_from(i128::from(base_ns) + ticks * i128::from(NANOS_PER_SECOND) / i128::from(rate)).ok()
}

/// NTP time of the sender report that begins `packet`, as ns since 1970. The layout is RFC 3550, 6.4.1.
fn sender_report_unix_ns(packet: &[u8]) -> Option<i64> {
    const SENDER_REPORT: u8 = 200;
    let word = |at: usize| Some(u64::from(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?)));
    if packet.first()? >> 6 != 2 || *packet.get(1)? != SENDER_REPORT {
        return None;
    }
    let (seconds, fraction) = (word(8)?, word(12)?);
    let unix_s = seconds.checked_sub(NTP_TO_UNIX_S).filter(|s| *s >= PLAUSIBLE_FROM_S)?;
    i64::try_from(unix_s * NANOS_PER_SECOND + ((fraction * NANOS_PER_SECOND) >> 32)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_reports_are_read() {
        let mut packet = vec![0x80, 200, 0, 6, 1, 2, 3, 4];
        packet.extend(u32::try_from(NTP_TO_UNIX_S + 1_700_000_000).unwrap().to_be_bytes());
        packet.extend(0x8000_0000u32.to_be_bytes());
        assert_eq!(sender_report_unix_ns(&packet), Some(1_700_000_000_500_000_000));
        assert_eq!(sender_report_unix_ns(&packet[..15]), None, "cut off");
        packet[1] = 201;
        assert_eq!(sender_report_unix_ns(&packet), None, "a receiver report");
    }

    #[test]
    fn rtp_time_before_and_after_the_base_maps_to_running_time() {
        assert_eq!(rtp_to_running_ns(90_000, 5_000_000_000, 90_000, 180_000), Some(6_000_000_000));
        assert_eq!(rtp_to_running_ns(90_000, 5_000_000_000, 90_000, 45_000), Some(4_500_000_000));
        assert_eq!(rtp_to_running_ns(900_000, 1, 90_000, 0), None, "before the stream began");
        assert_eq!(rtp_to_running_ns(1, 1, 0, 1), None);
    }
}
