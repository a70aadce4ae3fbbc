//! How this node's address looks to its peers (libp2p identify), and what translation of addresses on the way that shows.
//!
//! Only QUIC counts: its sockets send from the port on which they listen, so the port that a peer sees is the listening port,
//! or what a translator made of it. A TCP connection has a passing port of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crdt::id::Key;

/// Most peers of which it is kept where they see this node.
const OBSERVED_MAX: usize = 256;

/// Where peers see this node, over QUIC.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    by: BTreeMap<Key, SocketAddr>,
}

impl Observed {
    /// A peer says at which multiaddress it sees this node.
    pub(super) fn note(&mut self, peer: Key, address: &str) {
        let has_room = self.by.len() < OBSERVED_MAX || self.by.contains_key(&peer);
        if let Some(address) = quic_address(address).filter(|_| has_room) {
            self.by.insert(peer, address);
        }
    }

    pub(super) fn forget(&mut self, peer: &Key) {
        self.by.remove(peer);
    }

    /// Where a peer sees this node.
    pub(crate) fn by(&self, peer: &Key) -> Option<SocketAddr> {
        self.by.get(peer).copied()
    }
}

/// The address in `/ip4/192.0.2.1/udp/4410/quic-v1`, or the same with `ip6`.
pub(crate) fn quic_address(text: &str) -> Option<SocketAddr> {
    match text.split('/').collect::<Vec<_>>()[..] {
        ["", "ip4" | "ip6", ip, "udp", port, "quic-v1"] => {
            Some((ip.parse::<IpAddr>().ok()?, port.parse().ok()?).into())
        }
        _ => None,
    }
}

/// What a translator on the way makes of this node's address, as far as peers can tell (the words are those of RFC 4787).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// No peer says anything.
    Unknown,
    /// All see an address of this machine.
    Untranslated,
    /// One sees a translated address; what others would see is not known.
    Single(SocketAddr),
    /// All see the same translated address: the mapping does not depend on whom it is for.
    Same(SocketAddr),
    /// They see one address with different ports: each peer has a mapping of its own.
    Ports(IpAddr, BTreeSet<u16>),
    /// They see different addresses.
    Addresses(BTreeSet<IpAddr>),
}

/// What follows from the addresses at which peers see this node that it dialled; those of one family of addresses. `own` are
/// the machine's addresses.
pub(crate) fn mapping(own: &BTreeSet<IpAddr>, seen: &[SocketAddr]) -> Mapping {
    let translated: Vec<&SocketAddr> = seen.iter().filter(|address| !own.contains(&address.ip())).collect();
    let ips: BTreeSet<IpAddr> = translated.iter().map(|address| address.ip()).collect();
    let ports: BTreeSet<u16> = translated.iter().map(|address| address.port()).collect();
    match translated[..] {
        [] if seen.is_empty() => Mapping::Unknown,
        [] => Mapping::Untranslated,
        [one] => Mapping::Single(*one),
        _ if ips.len() > 1 => Mapping::Addresses(ips),
        [one, ..] if ports.len() > 1 => Mapping::Ports(one.ip(), ports),
        [one, ..] => Mapping::Same(*one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Key {
        Key([number; 32])
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn only_quic_addresses_of_few_peers_are_kept() {
        let mut observed = Observed::default();
        for other in ["", "/ip4/192.0.2.1/tcp/4410", "/ip4/192.0.2.1/udp/99999/quic-v1", "/dns4/a/udp/1/quic-v1"] {
            observed.note(key(1), other);
        }
        assert_eq!(observed.by(&key(1)), None);
        observed.note(key(1), "/ip4/192.0.2.1/udp/4410/quic-v1");
        observed.note(key(1), "/ip6/2001:db8::1/udp/4411/quic-v1");
        assert_eq!(observed.by(&key(1)), Some("[2001:db8::1]:4411".parse().expect("an address")));
        for number in 0..OBSERVED_MAX as u64 * 2 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            observed.note(Key(bytes), "/ip4/192.0.2.1/udp/4410/quic-v1");
        }
        assert_eq!(observed.by.len(), OBSERVED_MAX);
        observed.forget(&key(1));
        assert_eq!(observed.by(&key(1)), None);
    }

    #[test]
    fn what_peers_see_tells_the_mapping() {
        let own: BTreeSet<IpAddr> = ["10.0.0.5".parse().expect("an address")].into();
        let of = |seen: &[&str]| mapping(&own, &addresses(seen));
        let outside = addresses(&["192.0.2.1:4410"])[0];
        assert_eq!(of(&[]), Mapping::Unknown);
        assert_eq!(of(&["10.0.0.5:4410", "10.0.0.5:4410"]), Mapping::Untranslated);
        assert_eq!(of(&["10.0.0.5:4410", "192.0.2.1:4410"]), Mapping::Single(outside));
        assert_eq!(of(&["192.0.2.1:4410", "192.0.2.1:4410"]), Mapping::Same(outside));
        assert_eq!(of(&["192.0.2.1:4410", "192.0.2.1:9"]), Mapping::Ports(outside.ip(), [9, 4410].into()));
        let both = [outside.ip(), "192.0.2.2".parse().expect("an address")].into();
        assert_eq!(of(&["192.0.2.1:4410", "192.0.2.2:9"]), Mapping::Addresses(both));
    }
}
