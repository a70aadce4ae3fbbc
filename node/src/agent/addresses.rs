//! Which of the listening addresses a node announces: few, and those that others can most likely use.
//!
//! A host with containers and virtual machines listens on dozens of addresses; a link document takes eight, a ticket the
//! first four of them. The machine's address on its default route comes first, as whoever is not on one of its inner
//! networks reaches it there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use transport::LinkKind;

/// Most addresses that a node announces.
const ANNOUNCED_MAX: usize = 8;
/// Of them, such as are not this machine's: beyond a translator, or circuits.
const BEYOND_MAX: usize = 2;
/// Where they come in the list: a ticket takes the first four.
const BEYOND_AT: usize = 2;
/// Addresses for documentation (RFC 5737, RFC 3849): on nobody's network, so beyond the default route.
const ELSEWHERE_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ELSEWHERE_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The discard port (RFC 863). Nothing is sent to it.
const ANY_PORT: u16 = 9;

/// Addresses worth announcing, best first, at most eight. `reachable` are those that are not this machine's.
pub(crate) fn announced(listening: &BTreeSet<String>, reachable: &BTreeSet<String>) -> Vec<String> {
    let routes = [ELSEWHERE_IPV4.into(), ELSEWHERE_IPV6.into()].into_iter().filter_map(source_towards);
    let mut beyond: Vec<String> = reachable.iter().filter(|text| Listening::parse(text).is_some()).cloned().collect();
    beyond.extend(circuits(reachable));
    beyond.truncate(BEYOND_MAX);
    let mut chosen = choose(listening, &routes.collect::<Vec<_>>(), ANNOUNCED_MAX - beyond.len());
    let at = chosen.len().min(BEYOND_AT);
    chosen.splice(at..at, beyond);
    chosen
}

/// A circuit of each relay: `/ip4/192.0.2.1/udp/4410/quic-v1/p2p/12D3…/p2p-circuit`. A relay that is reached on
/// this machine only is of no use to others.
fn circuits(reachable: &BTreeSet<String>) -> Vec<String> {
    let mut by_relay: BTreeMap<&str, &String> = BTreeMap::new();
    for text in reachable {
        let Some((relay, peer)) = text.strip_suffix("/p2p-circuit").and_then(|rest| rest.split_once("/p2p/")) else {
            continue;
        };
        if Listening::parse(relay).is_some_and(|address| !address.ip.is_loopback()) {
            by_relay.entry(peer).or_insert(text);
        }
    }
    by_relay.into_values().cloned().collect()
}

/// The machine's own address on the way to another; `None` where no route leads there. Asks the kernel and sends nothing:
/// connecting a UDP socket only chooses the route.
pub(crate) fn source_towards(target: IpAddr) -> Option<IpAddr> {
    let unspecified: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((unspecified, 0)).ok()?;
    socket.connect((target, ANY_PORT)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified()).then_some(source)
}

/// The first `most` of the listening addresses in the order in which they should be kept:
///
/// 1. those of `routes`, the machine's own addresses on its default routes, each with QUIC and then TCP,
/// 2. one address with QUIC of each other network, then the same addresses with TCP,
/// 3. further addresses of the same networks.
///
/// The first TCP address comes second at the latest, so that a prefix of the list has one too. Loopback is taken only where
/// there is nothing else, link-local IPv6 never: it means nothing without the name of one's own interface (RFC 4007).
fn choose(listening: &BTreeSet<String>, routes: &[IpAddr], most: usize) -> Vec<String> {
    let usable = listening.iter().filter_map(|text| Listening::parse(text));
    let (loopback, outward): (Vec<_>, Vec<_>) = usable.partition(|address| address.ip.is_loopback());
    let mut order = if outward.is_empty() { loopback } else { outward };

    order.sort_by_key(|address| (!routes.contains(&address.ip), is_bridge(address.ip), address.ip));
    let mut first_of_network: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
    for address in &order {
        first_of_network.entry(network(address.ip)).or_insert(address.ip);
    }
    // A stable sort: what is equal here stays ordered as above.
    order.sort_by_key(|address| match routes.iter().position(|ip| *ip == address.ip) {
        Some(route) => (Rank::Route(route), address.protocol),
        None if first_of_network.get(&network(address.ip)) == Some(&address.ip) => (Rank::Network, address.protocol),
        None => (Rank::Further, address.protocol),
    });
    if let Some(tcp) = order.iter().position(|address| address.protocol == Protocol::Tcp).filter(|tcp| *tcp > 1) {
        order[1..=tcp].rotate_right(1);
    }
    order.into_iter().take(most).map(|address| address.text.to_owned()).collect()
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// On a default route, with its number.
    Route(usize),
    /// The first of its network.
    Network,
    Further,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Quic,
    Tcp,
}

struct Listening<'a> {
    ip: IpAddr,
    protocol: Protocol,
    text: &'a str,
}

impl<'a> Listening<'a> {
    /// Reads the two forms that `transport` listens on, `/ip4/192.0.2.1/udp/4410/quic-v1` and `/ip4/192.0.2.1/tcp/4410`, or
    /// the same with `ip6`. `None` for any other, and for link-local IPv6.
    fn parse(text: &'a str) -> Option<Listening<'a>> {
        let parts: Vec<&str> = text.split('/').collect();
        let (ip, protocol) = match parts.as_slice() {
            ["", "ip4" | "ip6", ip, "udp", _, "quic-v1"] => (ip, Protocol::Quic),
            ["", "ip4" | "ip6", ip, "tcp", _] => (ip, Protocol::Tcp),
            _ => return None,
        };
        let ip: IpAddr = ip.parse().ok()?;
        let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        (!is_link_local).then_some(Listening { ip, protocol, text })
    }
}

/// The network of an address, as its first address. The length of its prefix is not known here: 64 bits of IPv6 (RFC 4291),
/// 24 of IPv4, which is the most usual.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// How a link to this address leads there: `/p2p-circuit` is a relay; what is no private address (RFC 1918, RFC 4193) is
/// across the internet.
pub(super) fn kind_of(address: &str) -> LinkKind {
    let parts: Vec<&str> = address.split('/').collect();
    if parts.contains(&"p2p-circuit") {
        return LinkKind::Relayed;
    }
    let is_private = parts.get(2).and_then(|ip| ip.parse().ok()).is_some_and(|ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local(),
    });
    if is_private { LinkKind::Lan } else { LinkKind::Wan }
}

/// Whether it looks like the machine's end of a bridge to its own containers and virtual machines, which has the first
/// address of its network. Nobody elsewhere reaches it, and there may be many: they come after other networks.
fn is_bridge(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.to_bits() & 0xff == 1,
        IpAddr::V6(ip) => ip.to_bits() & u128::from(u64::MAX) == 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quic(ip: &str) -> String {
        let family = if ip.contains(':') { "ip6" } else { "ip4" };
        format!("/{family}/{ip}/udp/4410/quic-v1")
    }

    fn tcp(ip: &str) -> String {
        let family = if ip.contains(':') { "ip6" } else { "ip4" };
        format!("/{family}/{ip}/tcp/4410")
    }

    /// What a node listens on that has these addresses.
    fn on(ips: &[&str]) -> BTreeSet<String> {
        ips.iter().flat_map(|ip| [quic(ip), tcp(ip)]).collect()
    }

    fn routes(ips: &[&str]) -> Vec<IpAddr> {
        ips.iter().map(|ip| ip.parse().expect("an address")).collect()
    }

    const BRIDGES: [&str; 6] =
        ["10.88.0.1", "172.17.0.1", "172.18.0.1", "172.19.0.1", "192.168.122.1", "fd00:0:0:12::1"];

    #[test]
    fn private_addresses_are_near_and_relays_are_seen() {
        assert_eq!(kind_of("/ip4/10.1.2.3/udp/4410/quic-v1"), LinkKind::Lan);
        assert_eq!(kind_of("/ip6/fd00::1/tcp/4410"), LinkKind::Lan);
        assert_eq!(kind_of("/ip4/192.0.2.1/udp/4410/quic-v1"), LinkKind::Wan);
        assert_eq!(kind_of("/dns4/relay.example/tcp/4410"), LinkKind::Wan);
        assert_eq!(kind_of("/ip4/10.1.2.3/tcp/4410/p2p/12D3/p2p-circuit"), LinkKind::Relayed);
    }

    #[test]
    fn a_host_with_many_bridges_announces_its_default_route_first() {
        let mut listening = on(&BRIDGES);
        listening.extend(on(&["127.0.0.1", "::1", "fe80::1c2d", "192.168.178.20", "2001:db8:7::20", "192.168.200.5"]));
        let chosen = choose(&listening, &routes(&["192.168.178.20", "2001:db8:7::20"]), 8);
        let expected = [
            quic("192.168.178.20"),
            tcp("192.168.178.20"),
            quic("2001:db8:7::20"),
            tcp("2001:db8:7::20"),
            quic("192.168.200.5"),
            quic("10.88.0.1"),
            quic("172.17.0.1"),
            quic("172.18.0.1"),
        ];
        assert_eq!(chosen, expected);
        assert_eq!(choose(&listening, &routes(&["192.168.178.20", "2001:db8:7::20"]), 4), expected[..4]);
    }

    #[test]
    fn without_ipv6_the_other_networks_follow_each_with_quic_then_each_with_tcp() {
        let listening = on(&["10.1.0.7", "192.168.1.5", "172.17.0.1"]);
        let chosen = choose(&listening, &routes(&["192.168.1.5"]), 8);
        let expected = [
            quic("192.168.1.5"),
            tcp("192.168.1.5"),
            quic("10.1.0.7"),
            quic("172.17.0.1"),
            tcp("10.1.0.7"),
            tcp("172.17.0.1"),
        ];
        assert_eq!(chosen, expected);
    }

    #[test]
    fn without_a_default_route_the_second_is_tcp() {
        let listening = on(&["10.1.0.7", "10.2.0.7", "10.3.0.7", "10.4.0.7", "10.5.0.7"]);
        let chosen = choose(&listening, &[], 4);
        assert_eq!(chosen, [quic("10.1.0.7"), tcp("10.1.0.7"), quic("10.2.0.7"), quic("10.3.0.7")]);
    }

    #[test]
    fn one_address_stands_for_a_network() {
        let listening = on(&["192.168.1.5", "192.168.1.6", "10.1.0.7", "10.1.0.8", "2001:db8::7", "2001:db8::8"]);
        let chosen = choose(&listening, &routes(&["192.168.1.6"]), 6);
        let expected = [
            quic("192.168.1.6"),
            tcp("192.168.1.6"),
            quic("10.1.0.7"),
            quic("2001:db8::7"),
            tcp("10.1.0.7"),
            tcp("2001:db8::7"),
        ];
        assert_eq!(chosen, expected);
        let all = choose(&listening, &routes(&["192.168.1.6"]), 16);
        assert_eq!(all.len(), 12);
        assert_eq!(all[6..9], [quic("10.1.0.8"), quic("192.168.1.5"), quic("2001:db8::8")]);
    }

    #[test]
    fn loopback_is_announced_only_where_there_is_nothing_else() {
        let only = [quic("127.0.0.1"), tcp("127.0.0.1"), quic("::1"), tcp("::1")];
        assert_eq!(choose(&on(&["127.0.0.1", "::1"]), &[], 8), only);
        assert_eq!(choose(&on(&["127.0.0.1", "::1", "fe80::1"]), &[], 8), only, "link-local is nothing");
        assert_eq!(choose(&on(&["127.0.0.1", "::1", "10.1.0.7"]), &[], 8), [quic("10.1.0.7"), tcp("10.1.0.7")]);
    }

    #[test]
    fn a_ticket_has_what_leads_here_from_beyond_a_translator() {
        let circuit = |address: &str, relay: &str| format!("{address}/p2p/{relay}/p2p-circuit");
        let listening = on(&["192.168.1.5", "10.1.0.7", "10.2.0.7", "10.3.0.7", "10.4.0.7"]);
        let usable = [circuit(&quic("192.0.2.1"), "a"), circuit(&quic("192.0.2.2"), "b")];
        let mut reachable = BTreeSet::from(usable.clone());
        reachable.extend([circuit(&quic("127.0.0.1"), "c"), circuit(&quic("192.0.2.9"), "a")]);
        reachable.extend([circuit("/dns4/a.example/tcp/1", "d"), "/p2p-circuit".to_owned()]);
        let chosen = announced(&listening, &reachable);
        assert_eq!((chosen.len(), &chosen[BEYOND_AT..4]), (ANNOUNCED_MAX, &usable[..]));
        assert!(chosen[1].contains("/tcp/"));
        reachable.insert(quic("203.0.113.9"));
        assert_eq!(announced(&listening, &reachable)[BEYOND_AT..4], [quic("203.0.113.9"), usable[0].clone()]);
        assert_eq!(announced(&listening, &BTreeSet::new()).len(), ANNOUNCED_MAX);
    }

    #[test]
    fn a_route_that_is_not_listened_on_is_passed_over() {
        let chosen = choose(&on(&["10.1.0.7", "10.2.0.7"]), &routes(&["10.2.0.1"]), 3);
        assert_eq!(chosen, [quic("10.1.0.7"), tcp("10.1.0.7"), quic("10.2.0.7")]);
    }

    #[test]
    fn other_forms_are_left_out() {
        let others = ["", "/", "/ip4", "/ip4/10.1.0.7/udp/1", "/ip4/nonsense/tcp/1", "/dns4/a.example/tcp/1"];
        assert!(choose(&others.map(str::to_owned).into(), &[], 8).is_empty());
    }

    #[test]
    fn the_kernel_names_the_source_or_none() {
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source_towards(here), Some(here));
        // Refused without SO_BROADCAST, and where there is no network at all: as where there is no route.
        assert_eq!(source_towards(Ipv4Addr::BROADCAST.into()), None);
        // Whatever this machine's routes are, asking for them ends in addresses of its own or in none.
        for target in [ELSEWHERE_IPV4.into(), ELSEWHERE_IPV6.into()] {
            if let Some(source) = source_towards(target) {
                assert!(UdpSocket::bind((source, 0)).is_ok(), "{source} is no address of this machine");
            }
        }
    }

    fn ip() -> impl Strategy<Value = IpAddr> {
        let few = prop_oneof![Just(1u8), Just(5), Just(9)];
        prop_oneof![
            (0u8..6, few.clone()).prop_map(|(net, host)| Ipv4Addr::new(10, 0, net, host).into()),
            (0u16..4, few).prop_map(|(net, host)| Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, host.into()).into()),
            Just(Ipv4Addr::LOCALHOST.into()),
            Just(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into()),
        ]
    }

    proptest! {
        #[test]
        fn any_prefix_has_the_route_and_tcp(
            ips in proptest::collection::btree_set(ip(), 1..24),
            route in proptest::option::of(ip()),
            most in 2usize..9,
        ) {
            let texts: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
            let listening = on(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let routes: Vec<IpAddr> = route.into_iter().collect();
            let chosen = choose(&listening, &routes, most);
            prop_assert_eq!(&chosen, &choose(&listening, &routes, 100)[..chosen.len()]);
            prop_assert!(chosen.len() <= most && chosen.iter().all(|address| !address.contains("/fe80:")));
            let is_local = |ip: &IpAddr| ip.is_loopback() || matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            let has_outward = ips.iter().any(|ip| !is_local(ip));
            let has_loopback = chosen.iter().any(|address| address.contains("/127."));
            prop_assert_eq!(has_loopback, !has_outward && ips.iter().any(IpAddr::is_loopback));
            if !chosen.is_empty() {
                prop_assert!(chosen[0].ends_with("/quic-v1") && chosen[1].contains("/tcp/"));
            }
            if let Some(route) = route.filter(|route| ips.contains(route) && !is_local(route)) {
                prop_assert_eq!(&chosen[..2], &[quic(&route.to_string()), tcp(&route.to_string())]);
            }
        }
    }
}
