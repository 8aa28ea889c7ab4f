//! Slows down clients that send wrong tokens.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Wrong tokens without a penalty: people mistype.
const FREE: u32 = 5;

/// The longest wait, seconds.
const WAIT_MAX_S: u64 = 60;

/// Wrong tokens are forgotten this long after the last, ns.
const FORGET_NS: u64 = 600 * SECOND_NS;

/// Most addresses kept. Beyond this the one with the oldest wrong token is dropped.
const ADDRESSES_MAX: usize = 4096;

const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Default)]
struct Failures {
    count: u32,
    last_ns: u64,
    until_ns: u64,
}

#[derive(Default)]
pub(super) struct Throttle {
    addresses: Mutex<HashMap<IpAddr, Failures>>,
}

impl Throttle {
    /// Seconds that `address` must still wait before its tokens are compared.
    pub fn wait_s(&self, address: IpAddr, now_ns: u64) -> u64 {
        let addresses = self.addresses.lock();
        let until_ns = addresses.get(&subscriber(address)).map_or(0, |f| f.until_ns);
        until_ns.saturating_sub(now_ns).div_ceil(SECOND_NS)
    }

    /// Records a wrong token from `address`. Returns the new wait, as [`Self::wait_s`].
    pub fn failed(&self, address: IpAddr, now_ns: u64) -> u64 {
        let mut addresses = self.addresses.lock();
        let address = subscriber(address);
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            addresses.retain(|_, f| now_ns.saturating_sub(f.last_ns) < FORGET_NS);
            if addresses.len() >= ADDRESSES_MAX
                && let Some(oldest) = addresses.iter().min_by_key(|(_, f)| f.last_ns).map(|(a, _)| *a)
            {
                addresses.remove(&oldest);
            }
        }
        let failures = addresses.entry(address).or_default();
        if now_ns.saturating_sub(failures.last_ns) >= FORGET_NS {
            *failures = Failures::default();
        }
        failures.count += 1;
        failures.last_ns = now_ns;
        if failures.count <= FREE {
            return 0;
        }
        let wait_s = 1_u64.checked_shl(failures.count - FREE - 1).unwrap_or(WAIT_MAX_S).min(WAIT_MAX_S);
        failures.until_ns = now_ns + wait_s * SECOND_NS;
        wait_s
    }
}

/// The part of an address that identifies a subscriber: an IPv4 address, or the first 64 bits of IPv6.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_expire() {
        let throttle = Throttle::default();
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let mut now_ns = 1;
        for _ in 0..FREE {
            assert_eq!(throttle.failed(address, now_ns), 0);
            assert_eq!(throttle.wait_s(address, now_ns), 0);
        }
        for wait_s in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(throttle.failed(address, now_ns), wait_s);
            assert_eq!(throttle.wait_s(address, now_ns), wait_s);
            now_ns += wait_s * SECOND_NS;
            assert_eq!(throttle.wait_s(address, now_ns), 0);
        }
        assert_eq!(throttle.wait_s("192.0.2.8".parse().unwrap(), now_ns), 0);
        throttle.failed(address, now_ns + FORGET_NS);
        assert_eq!(throttle.wait_s(address, now_ns + FORGET_NS), 0, "the failures have expired");
    }

    #[test]
    fn addresses_of_one_subscriber_are_one_client_and_memory_is_bounded() {
        let throttle = Throttle::default();
        for host in 1..=6_u128 {
            let address = Ipv6Addr::from_bits((0x2001_0db8 << 96) + host);
            throttle.failed(address.into(), 1);
        }
        assert_eq!(throttle.wait_s("2001:db8::99".parse().unwrap(), 1), 1);
        assert_eq!(throttle.wait_s("2001:db8:0:1::99".parse().unwrap(), 1), 0);
        for n in 0..2 * ADDRESSES_MAX as u32 {
            throttle.failed(IpAddr::V4(n.into()), u64::from(n));
        }
        assert_eq!(throttle.addresses.lock().len(), ADDRESSES_MAX);
    }
}
