//! Tells public internet addresses from private and special ones.
//!
//! Source: the IANA special-purpose address registries (RFC 6890 and later registrations), and the metadata addresses of cloud
//! providers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 network: address and prefix length.
type Net4 = ([u8; 4], u32);

/// IPv4 networks that are not public unicast.
const SPECIAL_V4: [Net4; 16] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    // Carrier-grade NAT; one cloud provider has its metadata there.
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 31, 196, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// Networks within 2000::/3 (public unicast) that are not public: segments and prefix length.
const SPECIAL_V6: [([u16; 3], u32); 5] = [
    // Teredo, ORCHID, benchmarking and others.
    ([0x2001, 0, 0], 23),
    ([0x2001, 0xdb8, 0], 32),
    ([0x2620, 0x4f, 0x8000], 48),
    ([0x3ffe, 0, 0], 16),
    ([0x3fff, 0, 0], 20),
];

/// Metadata addresses of cloud providers, which give credentials to any client inside. Allowed only if listed individually.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

pub(super) fn is_metadata(address: IpAddr) -> bool {
    METADATA.contains(&address)
}

/// Whether `address`, in its canonical form, is a unicast address of the public internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !is_metadata(address) && !SPECIAL_V4.iter().any(|net| within_v4(v4, *net)),
        IpAddr::V6(v6) => {
            let is_unicast = v6.segments()[0] & 0xe000 == 0x2000;
            is_unicast && !SPECIAL_V6.iter().any(|net| within_v6(v6, *net))
        }
    }
}

fn within_v4(address: Ipv4Addr, (net, prefix): Net4) -> bool {
    let mask = u32::MAX << (32 - prefix);
    address.to_bits() & mask == u32::from_be_bytes(net)
}

fn within_v6(address: Ipv6Addr, ([a, b, c], prefix): ([u16; 3], u32)) -> bool {
    let net = Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).to_bits();
    address.to_bits() & (u128::MAX << (128 - prefix)) == net
}

/// The IPv4 address embedded in an IPv6 address: 6to4 and NAT64. Mapped addresses are canonical IPv4 already.
pub(super) fn embedded_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match s {
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for (text, public) in [
            ("93.184.216.34", true),
            ("8.8.8.8", true),
            ("100.63.255.255", true),
            ("100.128.0.1", true),
            ("172.15.255.255", true),
            ("172.32.0.1", true),
            ("192.0.1.1", true),
            ("223.255.255.255", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("10.255.255.255", false),
            ("100.64.0.1", false),
            ("100.100.100.200", false),
            ("127.0.0.2", false),
            ("168.63.129.16", false),
            ("169.254.169.254", false),
            ("172.31.255.255", false),
            ("192.0.0.192", false),
            ("192.168.1.1", false),
            ("198.19.255.255", false),
            ("224.0.0.1", false),
            ("239.1.2.3", false),
            ("255.255.255.255", false),
            ("2606:4700::1111", true),
            ("2a00:1450:4001::1", true),
            ("::", false),
            ("::1", false),
            ("::7f00:1", false),
            ("64:ff9b:1::1", false),
            ("100::1", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("3fff::1", false),
            ("5f00::1", false),
            ("fc00::1", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }

    #[test]
    fn embedded_ipv4_addresses_are_extracted() {
        let embedded = |text: &str| embedded_v4(text.parse().unwrap()).map(|v4| v4.to_string());
        assert_eq!(embedded("2002:7f00:1::1").as_deref(), Some("127.0.0.1"));
        assert_eq!(embedded("64:ff9b::a9fe:a9fe").as_deref(), Some("169.254.169.254"));
        assert_eq!(embedded("2606:4700::1111"), None);
    }
}
