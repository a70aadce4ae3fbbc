//! Addresses as people write them.

use std::net::{IpAddr, SocketAddr};

use libp2p::core::multiaddr::{Multiaddr, Protocol};

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address: 192.0.2.1:4410, robot.example:4410 or /ip4/192.0.2.1/udp/4410/quic-v1 is expected")]
pub struct BadAddress {
    text: String,
}

/// The multiaddresses that a text means: itself, or QUIC and TCP where it is `HOST:PORT` (`[IPV6]:PORT`).
///
/// # Errors
/// It is neither, or a multiaddress that no node listens on: of another protocol, or with a peer's id in it.
pub fn addresses_of(text: &str) -> Result<Vec<String>, BadAddress> {
    let bad = || BadAddress { text: text.to_owned() };
    if text.starts_with('/') {
        let address: Multiaddr = text.parse().map_err(|_| bad())?;
        return is_dialled(&address).then(|| vec![text.to_owned()]).ok_or_else(bad);
    }
    let (host, port) = match text.parse::<SocketAddr>() {
        Ok(address) => (host_of(address.ip()), address.port()),
        Err(_) => named(text).ok_or_else(bad)?,
    };
    if port == 0 {
        return Err(bad());
    }
    let host = Multiaddr::from(host);
    let quic = host.clone().with(Protocol::Udp(port)).with(Protocol::QuicV1);
    Ok([quic, host.with(Protocol::Tcp(port))].map(|address| address.to_string()).into())
}

fn host_of(ip: IpAddr) -> Protocol<'static> {
    match ip {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => Protocol::Ip6(ip),
    }
}

/// A host's name (RFC 1123) and a port.
fn named(text: &str) -> Option<(Protocol<'static>, u16)> {
    let (name, port) = text.rsplit_once(':')?;
    let is_label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    // What has figures only is an address that was mistyped.
    let is_name =
        name.len() <= 253 && name.split('.').all(is_label) && name.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name.then(|| Some((Protocol::Dns(name.to_owned().into()), port.parse().ok()?))).flatten()
}

fn is_dialled(address: &Multiaddr) -> bool {
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    let is_host = |part: &Protocol<'_>| {
        matches!(part, Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_))
    };
    match parts.as_slice() {
        [host, Protocol::Udp(port), Protocol::QuicV1] | [host, Protocol::Tcp(port)] => is_host(host) && *port > 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_a_port_stand_for_both_protocols_and_multiaddresses_for_themselves() {
        let of = |text: &str| addresses_of(text).expect("an address");
        assert_eq!(of("192.0.2.1:4410"), ["/ip4/192.0.2.1/udp/4410/quic-v1", "/ip4/192.0.2.1/tcp/4410"]);
        assert_eq!(of("[2001:db8::1]:4410"), ["/ip6/2001:db8::1/udp/4410/quic-v1", "/ip6/2001:db8::1/tcp/4410"]);
        assert_eq!(of("gate-2.example:9"), ["/dns/gate-2.example/udp/9/quic-v1", "/dns/gate-2.example/tcp/9"]);
        for text in ["/ip4/192.0.2.1/tcp/4410", "/dns6/robot.example/udp/4410/quic-v1"] {
            assert_eq!(of(text), [text]);
        }
    }

    #[test]
    fn what_no_node_listens_on_is_refused() {
        let texts = [
            "",
            "192.0.2.1",
            "192.0.2.1:0",
            "192.0.2.1:65536",
            "192.0.2:4410",
            "a..b:1",
            "a b:1",
            ":4410",
            "/ip4/192.0.2.1",
            "/ip4/192.0.2.1/udp/4410",
            "/ip4/192.0.2.1/tcp/0",
            "/ip4/192.0.2.1/tcp/4410/ws",
            "/nonsense",
            "/ip4/192.0.2.1/tcp/4410/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
        ];
        for text in texts {
            let refused = addresses_of(text).expect_err(text).to_string();
            assert!(refused.starts_with(&format!("{text:?} is no address")), "{refused}");
        }
    }
}
