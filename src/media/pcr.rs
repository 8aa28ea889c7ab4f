//! Detects jumps and wraps of the clock of an MPEG-TS stream (PCR).
//!
//! GStreamer's demultiplexer bridges both, so PTS do not show them. But after a jump the stream carries another programme or comes
//! from another encoder. Source: ISO/IEC 13818-1, 2.4.3.4 and 2.4.3.5 (adaptation field, PCR). Pure; packets are
//! untrusted input.

use touchline_core::time::NANOS_PER_SECOND;

const PACKET: usize = 188;
const SYNC: u8 = 0x47;

/// Ticks of 27 MHz until the clock wraps.
const PCR_PERIOD: u64 = (1 << 33) * 300;

/// A clock that advances by this much more than the local clock has jumped, ns: well above network jitter.
const AHEAD_NS: i64 = 2_000_000_000;

/// A clock that goes back by more than this has jumped, ns. Clock values arrive at least every 100 ms, so reordering is smaller.
const BACK_NS: i64 = 500_000_000;

/// The clock of another PID is used when the current one has not arrived for this long, ns.
const PID_GONE_NS: u64 = 5 * NANOS_PER_SECOND;

/// An event of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClockEvent {
    JumpForward,
    JumpBack,
    /// It wrapped, as it does every 26.5 hours.
    Wrapped,
}

#[derive(Clone, Copy, Debug)]
struct LastPcr {
    pid: u16,
    ticks: u64,
    arrived_ns: u64,
}

/// Monitors the clock of one stream.
#[derive(Clone, Debug, Default)]
pub(super) struct PcrMonitor {
    last: Option<LastPcr>,
}

impl PcrMonitor {
    /// Takes a part of the stream that arrived at `arrived_ns` of the monotonic clock. Incomplete packets are skipped.
    pub fn push(&mut self, data: &[u8], arrived_ns: u64) -> Option<ClockEvent> {
        let is_start = |at: &usize| data[*at] == SYNC && data.get(at + PACKET).is_none_or(|next| *next == SYNC);
        let first = (0..data.len().min(PACKET)).find(is_start)?;
        data[first..].chunks_exact(PACKET).filter_map(|packet| self.packet(packet, arrived_ns)).last()
    }

    fn packet(&mut self, packet: &[u8], arrived_ns: u64) -> Option<ClockEvent> {
        let (pid, ticks) = clock_of(packet)?;
        let last = self.last.filter(|l| l.pid == pid || arrived_ns.saturating_sub(l.arrived_ns) > PID_GONE_NS);
        if last.is_none() && self.last.is_some() {
            // The clock of another programme.
            return None;
        }
        let last = self.last.replace(LastPcr { pid, ticks, arrived_ns }).filter(|l| l.pid == pid)?;
        // The shorter direction around the wrap.
        let forward = (ticks + PCR_PERIOD - last.ticks) % PCR_PERIOD;
        let moved = if forward < PCR_PERIOD / 2 { forward as i64 } else { forward as i64 - PCR_PERIOD as i64 };
        let moved_ns = moved / 27 * 1000;
        let passed_ns = i64::try_from(arrived_ns.saturating_sub(last.arrived_ns)).unwrap_or(i64::MAX);
        if moved_ns > passed_ns.saturating_add(AHEAD_NS) {
            Some(ClockEvent::JumpForward)
        } else if moved_ns < -BACK_NS {
            Some(ClockEvent::JumpBack)
        } else if moved > 0 && ticks < last.ticks {
            Some(ClockEvent::Wrapped)
        } else {
            None
        }
    }
}

/// PID and clock reference of a packet, if it has one.
fn clock_of(packet: &[u8]) -> Option<(u16, u64)> {
    let [SYNC, b1, b2, b3, length, flags, c0, c1, c2, c3, c4, c5, ..] = *packet else { return None };
    let is_damaged = b1 & 0x80 != 0;
    if is_damaged || b3 & 0x20 == 0 || length < 7 || flags & 0x10 == 0 {
        return None;
    }
    let base = u64::from(u32::from_be_bytes([c0, c1, c2, c3])) << 1 | u64::from(c4 >> 7);
    let extension = u64::from(c4 & 1) << 8 | u64::from(c5);
    // An extension of 300 or more is invalid.
    (extension < 300).then_some((u16::from(b1 & 0x1f) << 8 | u16::from(b2), base * 300 + extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = NANOS_PER_SECOND;

    fn packet(pid: u16, ticks: u64) -> [u8; PACKET] {
        let mut packet = [0xff; PACKET];
        let (base, extension) = (ticks / 300 % (1 << 33), ticks % 300);
        packet[..6].copy_from_slice(&[SYNC, (pid >> 8) as u8, pid as u8, 0x20, 183, 0x10]);
        packet[6..10].copy_from_slice(&((base >> 1) as u32).to_be_bytes());
        packet[10] = ((base & 1) as u8) << 7 | 0x7e | (extension >> 8) as u8;
        packet[11] = extension as u8;
        packet
    }

    /// The events of clock values of one PID, each with its arrival in nanoseconds.
    fn events(clocks: &[(u64, u64)]) -> Vec<Option<ClockEvent>> {
        let mut watch = PcrMonitor::default();
        clocks.iter().map(|(ticks, at_ns)| watch.push(&packet(256, *ticks), *at_ns)).collect()
    }

    const SECOND: u64 = 27_000_000;

    #[test]
    fn a_continuous_clock_causes_no_events() {
        let clocks: Vec<_> = (0..1000).map(|k| (k * SECOND / 25, k * S / 25)).collect();
        assert!(events(&clocks).iter().all(Option::is_none));
        // The network delays packets and delivers bursts, and the sender is delayed itself.
        assert_eq!(events(&[(0, 0), (SECOND / 10, 9 * S), (9 * SECOND, 9 * S + S / 100)])[1], None);
        assert_eq!(events(&[(0, 0), (SECOND / 10, 60 * S)]), [None, None]);
    }

    #[test]
    fn jumps_and_wraps_are_distinguished() {
        use ClockEvent::{JumpBack, JumpForward, Wrapped};
        let hour = 3600 * SECOND;
        assert_eq!(events(&[(0, 0), (hour, S / 25), (hour + SECOND, 2 * S)]), [None, Some(JumpForward), None]);
        assert_eq!(events(&[(2 * hour, 0), (hour, S / 25), (hour + 1, 2 * S)]), [None, Some(JumpBack), None]);
        assert_eq!(
            events(&[(PCR_PERIOD - SECOND, 0), (SECOND, 2 * S), (2 * SECOND, 3 * S)]),
            [None, Some(Wrapped), None]
        );
        // Back across the wrap.
        assert_eq!(events(&[(SECOND, 0), (PCR_PERIOD - SECOND, S / 25)]), [None, Some(JumpBack)]);
    }

    #[test]
    fn one_clock_is_followed_until_it_is_gone() {
        let mut watch = PcrMonitor::default();
        assert_eq!(watch.push(&packet(256, 0), 0), None);
        assert_eq!(watch.push(&packet(300, 3600 * SECOND), S), None, "another program");
        assert_eq!(watch.push(&packet(256, SECOND), S), None);
        assert_eq!(watch.push(&packet(300, 3700 * SECOND), 10 * S), None, "the first is gone: the other is used");
        assert_eq!(watch.push(&packet(300, 9000 * SECOND), 11 * S), Some(ClockEvent::JumpForward));
    }

    #[test]
    fn packets_are_found_among_other_bytes() {
        let mut watch = PcrMonitor::default();
        let two = [packet(256, 0), packet(256, 3600 * SECOND)].concat();
        assert_eq!(watch.push(&[&[1, 2, 3][..], &two].concat(), 0), Some(ClockEvent::JumpForward));
        for junk in [&[][..], &[SYNC], &[SYNC; 600], &[0; 5000], &packet(256, 1)[..187]] {
            watch.push(junk, S);
        }
    }
}
