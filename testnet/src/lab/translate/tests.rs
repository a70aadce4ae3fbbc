//! Who is let in, and whether packets stay whole.

use super::*;
use crate::sim::topology::Place;

/// Two public nodes, two nodes in a site of the first kind, one in a site of the second.
fn translation(first: Nat, second: Nat) -> Translation {
    let place = |name: &str, zone: &str, nat| Place { name: name.to_owned(), zone: zone.to_owned(), nat };
    let nodes = vec![
        place("hub-0", "hub", None),
        place("a-0", "a", Some(first)),
        place("b-0", "b", Some(second)),
        place("hub-1", "hub", None),
        place("a-1", "a", Some(first)),
    ];
    Translation::new(&Topology { name: "test".to_owned(), nodes, lines: Vec::new() })
}

const HUB_0: &str = "10.44.0.1:4410";
const HUB_1: &str = "10.44.0.4:4410";
const A_0: &str = "192.168.0.2:4410";
const A_1: &str = "192.168.0.3:4410";
const B_0: &str = "192.168.0.2:4410";

fn end(text: &str) -> SocketAddrV4 {
    text.parse().expect("an end")
}

fn sum(words: impl Iterator<Item = u16>) -> u16 {
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
}

/// What the checksums of a packet should be, computed from nothing.
fn checksums(packet: &[u8]) -> (u16, u16) {
    let (mut packet, protocol) = (packet.to_vec(), packet[9]);
    let at = HEADER_BYTES + if protocol == TCP { 16 } else { 6 };
    packet[10..12].fill(0);
    packet[at..at + 2].fill(0);
    let length = (packet.len() - HEADER_BYTES) as u16;
    let pseudo = words(&packet[12..20]).chain([u16::from(protocol), length]);
    (sum(words(&packet[..HEADER_BYTES])), sum(pseudo.chain(words(&packet[HEADER_BYTES..]))))
}

fn packet(protocol: u8, from: &str, to: &str) -> Vec<u8> {
    let (from, to) = (end(from), end(to));
    let mut packet = vec![0; HEADER_BYTES + 25];
    (packet[0], packet[8], packet[9]) = (0x45, 64, protocol);
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[30..].fill(7);
    let (header, payload) = checksums(&packet);
    let at = HEADER_BYTES + if protocol == TCP { 16 } else { 6 };
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet[at..at + 2].copy_from_slice(&payload.to_be_bytes());
    packet
}

/// Who gets it and what its ends are there, after its checksums were found right.
fn sent(
    translation: &mut Translation,
    protocol: u8,
    node: usize,
    from: &str,
    to: &str,
) -> Result<(usize, String, String), Lost> {
    let mut packet = packet(protocol, from, to);
    let node = translation.route(node, &mut packet)?;
    let at = HEADER_BYTES + if protocol == TCP { 16 } else { 6 };
    assert_eq!((word(&packet, 10), word(&packet, at)), checksums(&packet), "{from} → {to}");
    let (_, from, to) = ends(&packet).expect("both ends");
    Ok((node, from.to_string(), to.to_string()))
}

#[test]
fn who_is_outside_or_in_the_same_site_is_reached_as_it_is() {
    let mut net = translation(Nat::PortRestricted, Nat::Symmetric);
    let homes: Vec<(String, bool)> =
        net.homes.iter().map(|home| (home.address.to_string(), home.is_behind())).collect();
    let expected = [("10.44.0.1", false), ("192.168.0.2", true), ("192.168.0.2", true), ("10.44.0.4", false)];
    assert_eq!(homes[..4], expected.map(|(address, is_behind)| (address.to_owned(), is_behind)));
    for protocol in [TCP, UDP] {
        assert_eq!(sent(&mut net, protocol, 0, HUB_0, HUB_1), Ok((3, HUB_0.to_owned(), HUB_1.to_owned())));
        assert_eq!(sent(&mut net, protocol, 1, A_0, A_1), Ok((4, A_0.to_owned(), A_1.to_owned())));
        assert_eq!(sent(&mut net, protocol, 0, HUB_0, A_0), Err(Lost::Foreign));
        // The same addresses are there in the other site, and in this one they mean its own nodes.
        assert_eq!(sent(&mut net, protocol, 2, B_0, A_1), Err(Lost::Foreign));
        assert_eq!(sent(&mut net, protocol, 0, HUB_0, "10.44.0.9:1"), Err(Lost::Foreign));
        assert_eq!(sent(&mut net, protocol, 0, HUB_0, "10.44.255.1:20000"), Err(Lost::Refused));
    }
}

#[test]
fn answers_come_in_and_others_as_the_kind_says() {
    for (kind, others) in [(Nat::FullCone, true), (Nat::PortRestricted, false), (Nat::Symmetric, false)] {
        for protocol in [TCP, UDP] {
            let mut net = translation(kind, kind);
            let (to, mapped, _) = sent(&mut net, protocol, 1, A_0, HUB_0).expect("it passes");
            assert_eq!((to, mapped.as_str()), (0, "10.44.255.1:20000"));
            assert_eq!(sent(&mut net, protocol, 0, HUB_0, &mapped), Ok((1, HUB_0.to_owned(), A_0.to_owned())));
            for (node, stranger) in [(3, HUB_1), (0, "10.44.0.1:9")] {
                let came = sent(&mut net, protocol, node, stranger, &mapped);
                assert_eq!(came.is_ok(), others, "{kind:?} {stranger}");
            }
            // Another node of the site, from the same port.
            assert_eq!(
                sent(&mut net, protocol, 4, A_1, HUB_0).map(|(_, from, _)| from),
                Ok("10.44.255.1:20001".to_owned())
            );
            let (_, again, _) = sent(&mut net, protocol, 1, A_0, HUB_1).expect("it passes");
            assert_eq!(again == mapped, kind != Nat::Symmetric);
            assert_eq!(sent(&mut net, protocol, 4, A_1, &mapped), Err(Lost::Refused), "no hairpinning");
        }
    }
}

#[test]
fn two_restricted_sites_meet_once_both_have_sent() {
    let mut net = translation(Nat::PortRestricted, Nat::PortRestricted);
    let (_, a, _) = sent(&mut net, UDP, 1, A_0, HUB_0).expect("it passes");
    let (_, b, _) = sent(&mut net, UDP, 2, B_0, HUB_0).expect("it passes");
    assert_eq!(sent(&mut net, UDP, 1, A_0, &b), Err(Lost::Refused));
    assert_eq!(sent(&mut net, UDP, 2, B_0, &a), Ok((1, b.clone(), A_0.to_owned())));
    assert_eq!(sent(&mut net, UDP, 1, A_0, &b), Ok((2, a, B_0.to_owned())));
}

#[test]
fn a_router_that_forgets_lets_nobody_in_and_picks_other_ports() {
    let mut net = translation(Nat::FullCone, Nat::FullCone);
    let (_, before, _) = sent(&mut net, UDP, 1, A_0, HUB_0).expect("it passes");
    assert!(net.forget(4), "it is the site's router");
    assert!(!net.forget(0));
    assert_eq!(sent(&mut net, UDP, 0, HUB_0, &before), Err(Lost::Refused));
    let (_, after, _) = sent(&mut net, UDP, 1, A_0, HUB_0).expect("it passes");
    assert_ne!(before, after);
}

#[test]
fn what_is_no_whole_udp_or_tcp_does_not_pass_a_router() {
    let mut net = translation(Nat::FullCone, Nat::FullCone);
    let mut fragment = packet(UDP, A_0, HUB_0);
    fragment[6] = 0x20;
    let mut icmp = packet(UDP, A_0, HUB_0);
    icmp[9] = 1;
    let short = packet(UDP, A_0, HUB_0)[..27].to_vec();
    for mut bad in [fragment, icmp, short] {
        assert_eq!(net.route(1, &mut bad), Err(Lost::Refused));
    }
    let mut no_checksum = packet(UDP, A_0, HUB_0);
    no_checksum[26..28].fill(0);
    assert_eq!(net.route(1, &mut no_checksum), Ok(0));
    assert_eq!(word(&no_checksum, 26), 0);
    for mut bad in [Vec::new(), vec![0x45; 19], vec![0x60; 40]] {
        assert_eq!(net.route(0, &mut bad), Err(Lost::Foreign));
    }
}

#[test]
fn as_many_nodes_as_a_lab_has_are_told_apart_by_their_addresses() {
    let place = |number: usize| Place { name: format!("lab-{number}"), zone: "lab".to_owned(), nat: None };
    let count = crate::lab::network::NODES_MAX;
    let topology = Topology { name: "test".to_owned(), nodes: (0..count).map(place).collect(), lines: Vec::new() };
    let mut net = Translation::new(&topology);
    let homes = homes(&topology);
    assert_eq!(homes[0], Home::OUTSIDE);
    for (node, home) in homes.iter().enumerate() {
        let to = format!("{}:4410", home.address);
        assert_eq!(sent(&mut net, UDP, 0, HUB_0, &to).map(|(node, ..)| node), Ok(node));
    }
    for nobody in ["10.44.0.0:1", "10.44.0.251:1", "10.45.0.1:1", "224.0.0.251:5353"] {
        assert_eq!(sent(&mut net, UDP, 0, HUB_0, nobody), Err(Lost::Foreign), "{nobody}");
    }
}
