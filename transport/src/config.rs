//! What the owner decides before the mesh starts, and why a start can fail.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::sync::mpsc;

use crate::bulk::Asked;

/// Where to listen. QUIC (UDP) and TCP use the same port number on every address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The local addresses; `0.0.0.0` and `::` stand for every interface. At most [`Listen::MAX_IPS`]. Empty: dial only.
    pub ips: Vec<IpAddr>,
    /// The port. 0 picks one that is free for UDP and for TCP.
    pub port: u16,
}

impl Listen {
    /// Most local addresses listened on.
    pub const MAX_IPS: usize = 16;

    /// Every interface, IPv4 and IPv6. A machine without IPv6 listens on IPv4 alone.
    pub fn everywhere(port: u16) -> Self {
        Self { ips: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()], port }
    }

    /// Only this machine (127.0.0.1), on a picked port.
    pub fn loopback() -> Self {
        Self { ips: vec![Ipv4Addr::LOCALHOST.into()], port: 0 }
    }
}

/// How others reach this node where they cannot dial it. Has no effect where it does not listen: then it only dials others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaching {
    /// Circuits (libp2p's relay v2): carry them for members that nobody can dial, and ask others where nobody can dial this
    /// node. Joins go over them, and what is needed to punch a hole; never a session.
    pub relay: bool,
    /// Punch holes into the translators and firewalls at both ends of a circuit (DCUtR).
    pub dcutr: bool,
    /// Have others dial back, to know which addresses they reach, and dial back for members (AutoNAT v2).
    pub autonat: bool,
}

impl Reaching {
    /// None of it.
    pub const NONE: Reaching = Reaching { relay: false, dcutr: false, autonat: false };
}

impl Default for Reaching {
    /// All of it.
    fn default() -> Self {
        Self { relay: true, dcutr: true, autonat: true }
    }
}

/// The settings of one mesh endpoint.
#[derive(Clone)]
pub struct Config {
    /// The ed25519 secret key (RFC 8032 seed) that this node is known by.
    pub secret: [u8; 32],
    /// Where to listen.
    pub listen: Listen,
    /// Find peers on the local network by multicast DNS. If its socket can't be opened the mesh starts without it and
    /// logs a warning: static addresses always work.
    pub mdns: bool,
    /// How others reach this node where they cannot dial it.
    pub reach: Reaching,
    /// Most established connections, in and out together. Half as many again may be being set up.
    pub connections_max: u32,
    /// QUIC flow window of one stream, bytes: what a peer may send ahead of a slow reader. Lower it on small devices.
    pub stream_window_bytes: u32,
    /// QUIC flow window of one connection, bytes.
    pub connection_window_bytes: u32,
    /// Where bulk requests go that come over streams of this mesh ([`Bulk::inlet`](crate::bulk::Bulk::inlet)); without it none
    /// are taken.
    pub bulk: Option<mpsc::Sender<Asked>>,
}

impl Config {
    /// The default settings: no mDNS, all of [`Reaching`], 200 connections, windows of 4 MB and 16 MB.
    pub fn new(secret: [u8; 32], listen: Listen) -> Self {
        Self {
            secret,
            listen,
            mdns: false,
            reach: Reaching::default(),
            connections_max: 200,
            stream_window_bytes: 4_000_000,
            connection_window_bytes: 16_000_000,
            bulk: None,
        }
    }

    /// How others reach this node: who does not listen is not reached.
    pub(crate) fn reaching(&self) -> Reaching {
        if self.listen.ips.is_empty() { Reaching::NONE } else { self.reach }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret stays out of every log.
        f.debug_struct("Config").field("listen", &self.listen).field("mdns", &self.mdns).finish_non_exhaustive()
    }
}

/// Why [`spawn`](crate::spawn) failed. Nothing is left running or bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// `spawn` was called outside a tokio runtime.
    #[error("no tokio runtime")]
    NoRuntime,
    /// Another socket has this port, for UDP or TCP.
    #[error("port {port} is in use")]
    PortTaken {
        /// The port that was asked for.
        port: u16,
    },
    /// No port was free for both UDP and TCP on all addresses after 32 tries.
    #[error("no port is free for both UDP and TCP")]
    NoPort,
    /// An address can't be listened on: not local, not permitted, or no such address family.
    #[error("can't listen on {addr}: {cause}")]
    Listen {
        /// The address.
        addr: String,
        /// What the system said.
        cause: String,
    },
    /// More than [`Listen::MAX_IPS`] addresses.
    #[error("at most {} addresses to listen on", Listen::MAX_IPS)]
    TooManyAddresses,
    /// The system gave no randomness.
    #[error("no randomness from the system")]
    NoRandomness,
    /// A part of the network stack did not start.
    #[error("the network stack did not start: {0}")]
    Stack(#[source] io::Error),
}
