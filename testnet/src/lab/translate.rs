//! Address translation between sites and the rest of a lab's network, without a clock, threads or sockets.
//!
//! A zone with `nat` is a site: its nodes have private addresses, 192.168.0.2 and so on in each site, reach each other directly,
//! and share one address on the outside, 10.44.255.1 and so on, that of the site's router. What a node sends outside leaves from there,
//! from a port that the router picks; what comes to such a port is let in as the kind of translation says (RFC 4787):
//!
//! * `full-cone`: one port for all destinations, and everybody is let in there
//! * `port-restricted`: one port for all destinations; only those are let in to whom something was sent from there
//! * `symmetric`: a port for each destination, and only that one is let in
//!
//! Routers do not let a node reach its own site from outside (no hairpinning), have no timeouts, and know UDP and TCP; what
//! else there is (ICMP, fragments) does not pass them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::sim::topology::{Nat, Topology};

#[cfg(test)]
mod tests;

/// The first two bytes of the addresses outside; node 0 has 10.44.0.1.
const NET: [u8; 2] = [10, 44];
/// The length of their prefix.
const PREFIX: u8 = 16;
/// The third byte of the routers' addresses.
const ROUTERS: u8 = 255;
/// The first three bytes of the addresses in sites.
const PRIVATE: [u8; 3] = [192, 168, 0];
const PRIVATE_PREFIX: u8 = 24;
/// Ports that routers pick, one after the other.
const FIRST_PORT: u16 = 20_000;
/// Most mappings of a router; what would need more is lost.
const MAPPINGS_MAX: usize = 40_000;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The shortest IPv4 header.
const HEADER_BYTES: usize = 20;

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    /// The number of the site that it is in.
    site: Option<usize>,
}

impl Home {
    /// The first node outside.
    pub(crate) const OUTSIDE: Home = Home { address: Ipv4Addr::new(NET[0], NET[1], 0, 1), prefix: PREFIX, site: None };

    /// Whether the way out leads over a router.
    pub(crate) fn is_behind(&self) -> bool {
        self.site.is_some()
    }
}

/// Why a packet reaches nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It is no IPv4, or for an address that no node has.
    Foreign,
    /// A router does not let it pass.
    Refused,
}

/// A port of a router that stands for one of a node.
#[derive(Debug, Clone)]
struct Mapping {
    node: usize,
    inside: SocketAddrV4,
    /// To whom something was sent from there.
    sent_to: BTreeSet<SocketAddrV4>,
}

/// By protocol and port; where each destination has a port of its own, by destination too.
type Inside = (u8, SocketAddrV4, Option<SocketAddrV4>);

#[derive(Debug)]
struct Router {
    kind: Nat,
    outside: Ipv4Addr,
    mappings: BTreeMap<(u8, u16), Mapping>,
    ports: BTreeMap<Inside, u16>,
    next_port: u16,
}

/// All routers, and who is where.
#[derive(Debug)]
pub(super) struct Translation {
    homes: Vec<Home>,
    /// By site and address: those in sites mean somebody else elsewhere.
    nodes: BTreeMap<(Option<usize>, Ipv4Addr), usize>,
    routers: Vec<Router>,
}

/// Where the nodes of a topology are.
pub(crate) fn homes(topology: &Topology) -> Vec<Home> {
    // Of each site, its number and the last byte of the newest address.
    let mut sites: BTreeMap<&str, (usize, u8)> = BTreeMap::new();
    let mut homes = Vec::with_capacity(topology.nodes.len());
    for (node, place) in topology.nodes.iter().enumerate() {
        homes.push(match place.nat {
            None => {
                let number = u16::try_from(node + 1).unwrap_or(u16::MAX).to_be_bytes();
                Home { address: Ipv4Addr::new(NET[0], NET[1], number[0], number[1]), prefix: PREFIX, site: None }
            }
            Some(_) => {
                let next = sites.len();
                let (site, last) = sites.entry(&place.zone).or_insert((next, 1));
                *last = last.saturating_add(1);
                let address = Ipv4Addr::new(PRIVATE[0], PRIVATE[1], PRIVATE[2], *last);
                Home { address, prefix: PRIVATE_PREFIX, site: Some(*site) }
            }
        });
    }
    homes
}

impl Translation {
    /// The routers of a topology, without mappings.
    pub(super) fn new(topology: &Topology) -> Translation {
        let homes = homes(topology);
        let mut routers: BTreeMap<usize, Router> = BTreeMap::new();
        for (home, place) in homes.iter().zip(&topology.nodes) {
            if let (Some(site), Some(kind)) = (home.site, place.nat) {
                let number = u8::try_from(site + 1).unwrap_or(u8::MAX);
                let outside = Ipv4Addr::new(NET[0], NET[1], ROUTERS, number);
                routers.entry(site).or_insert_with(|| Router::new(kind, outside));
            }
        }
        let nodes = homes.iter().enumerate().map(|(node, home)| ((home.site, home.address), node)).collect();
        Translation { homes, nodes, routers: routers.into_values().collect() }
    }

    /// To whom a packet goes that a node sends; its addresses are changed as routers on the way do.
    pub(super) fn route(&mut self, from: usize, packet: &mut [u8]) -> Result<usize, Lost> {
        let (_, to) = addresses(packet).ok_or(Lost::Foreign)?;
        let home = self.homes[from];
        if let Some(node) = self.nodes.get(&(home.site, to)) {
            return Ok(*node);
        }
        if to.octets()[..3] == PRIVATE {
            return Err(Lost::Foreign);
        }
        if let Some(site) = home.site {
            self.routers[site].leave(from, packet)?;
        }
        if let Some(node) = self.nodes.get(&(None, to)) {
            return Ok(*node);
        }
        let router = self.routers.iter_mut().enumerate().find(|(_, router)| router.outside == to);
        match router {
            Some((site, router)) if home.site != Some(site) => router.enter(packet),
            Some(_) => Err(Lost::Refused),
            None => Err(Lost::Foreign),
        }
    }

    /// The router before a node forgets all mappings, as when it starts again. False where there is none.
    pub(super) fn forget(&mut self, node: usize) -> bool {
        let router = self.homes[node].site.map(|site| &mut self.routers[site]);
        if let Some(router) = router {
            // The next ports are others: nothing that was on its way reaches anybody else.
            (router.mappings, router.ports) = (BTreeMap::new(), BTreeMap::new());
            return true;
        }
        false
    }
}

impl Router {
    fn new(kind: Nat, outside: Ipv4Addr) -> Router {
        Router { kind, outside, mappings: BTreeMap::new(), ports: BTreeMap::new(), next_port: FIRST_PORT }
    }

    /// A packet leaves the site.
    fn leave(&mut self, node: usize, packet: &mut [u8]) -> Result<(), Lost> {
        let (protocol, from, to) = ends(packet).ok_or(Lost::Refused)?;
        let inside = (protocol, from, (self.kind == Nat::Symmetric).then_some(to));
        let port = match self.ports.get(&inside) {
            Some(port) => *port,
            None => {
                let port = self.free_port(protocol).ok_or(Lost::Refused)?;
                self.ports.insert(inside, port);
                self.mappings.insert((protocol, port), Mapping { node, inside: from, sent_to: BTreeSet::new() });
                port
            }
        };
        if let Some(mapping) = self.mappings.get_mut(&(protocol, port)) {
            mapping.sent_to.insert(to);
        }
        rewrite(packet, Side::Source, SocketAddrV4::new(self.outside, port));
        Ok(())
    }

    /// A packet comes to the router's address.
    fn enter(&self, packet: &mut [u8]) -> Result<usize, Lost> {
        let (protocol, from, to) = ends(packet).ok_or(Lost::Refused)?;
        let mapping = self.mappings.get(&(protocol, to.port())).ok_or(Lost::Refused)?;
        if self.kind != Nat::FullCone && !mapping.sent_to.contains(&from) {
            return Err(Lost::Refused);
        }
        rewrite(packet, Side::Destination, mapping.inside);
        Ok(mapping.node)
    }

    fn free_port(&mut self, protocol: u8) -> Option<u16> {
        if self.mappings.len() >= MAPPINGS_MAX {
            return None;
        }
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.mappings.contains_key(&(protocol, port)) {
                return Some(port);
            }
        }
    }
}

/// Source and destination of an IPv4 packet (RFC 791).
fn addresses(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let at = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    (packet.len() >= HEADER_BYTES && packet[0] >> 4 == 4).then(|| (at(12), at(16)))
}

/// Protocol, source and destination of a whole UDP or TCP packet.
fn ends(packet: &[u8]) -> Option<(u8, SocketAddrV4, SocketAddrV4)> {
    let (from, to) = addresses(packet)?;
    let (protocol, header) = (packet[9], header_bytes(packet));
    // More fragments follow, or this is not the first.
    let is_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    let needed = if protocol == TCP { 20 } else { 8 };
    if is_fragment || !matches!(protocol, TCP | UDP) || packet.len() < header + needed {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    Some((protocol, SocketAddrV4::new(from, port(header)), SocketAddrV4::new(to, port(header + 2))))
}

fn header_bytes(packet: &[u8]) -> usize {
    usize::from(packet[0] & 0xf) * 4
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Changes an end of a packet for which [`ends`] has something, and its checksums.
fn rewrite(packet: &mut [u8], side: Side, end: SocketAddrV4) {
    let header = header_bytes(packet);
    let (address_at, port_at) = match side {
        Side::Source => (12, header),
        Side::Destination => (16, header + 2),
    };
    let before = [word(packet, address_at), word(packet, address_at + 2), word(packet, port_at)];
    packet[address_at..address_at + 4].copy_from_slice(&end.ip().octets());
    packet[port_at..port_at + 2].copy_from_slice(&end.port().to_be_bytes());
    let after = [word(packet, address_at), word(packet, address_at + 2), word(packet, port_at)];
    let changes = |count: usize| before.into_iter().zip(after).take(count);
    amend(packet, 10, changes(2));
    let checksum_at = header + if packet[9] == TCP { 16 } else { 6 };
    // A UDP checksum of 0 means that there is none (RFC 768).
    if packet[9] == TCP || word(packet, checksum_at) != 0 {
        amend(packet, checksum_at, changes(3));
        if packet[9] == UDP && word(packet, checksum_at) == 0 {
            packet[checksum_at..checksum_at + 2].copy_from_slice(&[0xff, 0xff]);
        }
    }
}

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// Brings a checksum up to date with words that have changed (RFC 1624, equation 3).
fn amend(packet: &mut [u8], at: usize, changes: impl Iterator<Item = (u16, u16)>) {
    let mut sum = u32::from(!word(packet, at));
    for (before, after) in changes {
        sum += u32::from(!before) + u32::from(after);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
