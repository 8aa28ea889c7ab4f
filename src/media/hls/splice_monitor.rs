//! Monitors an endless transport stream for announcements of advertisement breaks.
//!
//! A break begins when the media at its position arrive. Media that are still being decoded then count towards the break.

use super::breaks::AdBreaks;
use super::container::{ANNOUNCED_MAX_NS, Container, LATE_MAX_NS, distance_ns};
use super::ts::{PACKET, SYNC, TsScanner};
use touchline_core::incident::Incident;
use touchline_core::time::NANOS_PER_SECOND;

/// Times that jump by more than this are on another timeline, ns.
const JUMP_NS: i64 = 10 * NANOS_PER_SECOND as i64;

#[derive(Debug, Default)]
pub(crate) struct SpliceMonitor {
    scan: TsScanner,
    /// The beginning of a packet whose end has not arrived.
    rest: Vec<u8>,
    breaks: AdBreaks,
    /// The latest presentation time, ns.
    last_ns: Option<u64>,
    /// Position from the start of the stream, ns. Continues across jumps and wraps.
    line_ns: u64,
}

impl SpliceMonitor {
    /// Takes the next bytes. Returns the begins and ends of breaks in them.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Incident> {
        self.rest.extend_from_slice(bytes);
        let (rest, mut at) = (std::mem::take(&mut self.rest), 0);
        let mut happened = Vec::new();
        while let Some(packet) = rest.get(at..at + PACKET) {
            if packet[0] != SYNC {
                at += 1;
                continue;
            }
            at += PACKET;
            self.scan.packet(packet);
            self.go_on();
            happened.extend(std::iter::from_fn(|| self.breaks.next(self.line_ns)));
        }
        self.rest = rest[at..].to_vec();
        happened
    }

    fn go_on(&mut self) {
        if let Some(now_ns) = self.scan.newest_ns {
            let moved_ns = self.last_ns.map_or(0, |last| distance_ns(Container::MpegTs, last, now_ns));
            // Pictures that are shown before the last one do not advance the position.
            if !(-JUMP_NS..=0).contains(&moved_ns) || self.last_ns.is_none() {
                self.last_ns = Some(now_ns);
                let moved_ns = if moved_ns > JUMP_NS { 0 } else { moved_ns.max(0) };
                self.line_ns = self.line_ns.saturating_add_signed(moved_ns);
            }
        }
        for cue in self.scan.cues.drain(..) {
            let after_ns = self
                .last_ns
                .zip(cue.at_ns)
                .map(|(last, at)| distance_ns(Container::MpegTs, last, at))
                .filter(|ns| ns.unsigned_abs() < ANNOUNCED_MAX_NS)
                .unwrap_or(0);
            if after_ns.saturating_add_unsigned(LATE_MAX_NS) >= 0 {
                self.breaks.announce(self.line_ns.saturating_add_signed(after_ns.max(0)), cue.ad);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::splice::tests::insert_at;
    use super::super::ts::tests::{marked, picture};
    use super::*;

    #[test]
    fn breaks_begin_when_their_media_arrive_and_across_a_wrap_of_the_clock() {
        const FIRST: u64 = (1 << 33) - 10 * 90_000;
        let ticks = |second: u64| (FIRST + second * 90_000) & ((1 << 33) - 1);
        let mut bytes = marked(
            FIRST,
            &[
                insert_at(1, true, ticks(5), None),
                insert_at(1, false, ticks(15), None),
                insert_at(1, true, ticks(5), None),
            ],
            &[],
        );
        let mut incidents = Vec::new();
        let mut watch = SpliceMonitor::default();
        for second in 0..20 {
            // The pieces are not aligned to packets, and a stray byte precedes the first.
            bytes = [&[0x12][..], &std::mem::take(&mut bytes), &picture(ticks(second))].concat();
            for piece in bytes.chunks(100) {
                incidents.extend(watch.push(piece).into_iter().map(|incident| (second, incident.as_str())));
            }
            bytes.clear();
        }
        assert_eq!(incidents, [(5, "ad-break-began"), (15, "ad-break-ended")]);
    }
}
