//! A network on one machine: each node of a topology is a [`Host`], and one thread carries what they send each other.
//!
//! Node 0 has the address 10.44.0.1, node 1 10.44.0.2, and so on, all in one subnet; those in sites have private ones, behind
//! a router ([`translate`](super::translate)). Only those reach each other between which the topology has a line; anything else
//! is dropped silently, as by a firewall.

use std::io;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use super::emulation::{Changed, Counters, Emulation};
use super::forward::{Shared, forward};
use super::host::Host;
use super::quality::Bend;
use super::translate::{Home, Translation, homes};
use crate::sim::topology::Topology;

/// Most nodes: each is a thread, a namespace and a device.
pub(crate) const NODES_MAX: usize = 250;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NetworkError {
    /// Nothing was made.
    #[error("namespaces and TUN devices need root")]
    NotRoot,
    /// Nothing was made: the kernel or the container lacks what is needed.
    #[error("{0}")]
    Unavailable(String),
    /// Nothing was made.
    #[error("a lab has at most {NODES_MAX} nodes, and the topology {0}")]
    TooMany(usize),
    /// What was made is gone again.
    #[error("node {node}: {cause}")]
    Host { node: String, cause: io::Error },
    /// What was made is gone again.
    #[error("the forwarding thread: {0}")]
    Thread(io::Error),
}

/// A running network. All its processes end when it goes.
#[derive(Debug)]
pub(crate) struct Network {
    hosts: Vec<Host>,
    homes: Vec<Home>,
    shared: Arc<Shared>,
    forwarder: Option<JoinHandle<io::Result<()>>>,
}

/// What became of all packets.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) lines: Counters,
    /// No IPv4, or for an address that no node has.
    pub(crate) foreign: u64,
    /// Due, but the node's device did not take it.
    pub(crate) refused: u64,
    /// A router that translates addresses did not let it pass.
    pub(crate) untranslated: u64,
}

/// Fails where this machine cannot hold a lab: not root, no TUN, no namespaces.
pub(crate) fn check() -> Result<(), NetworkError> {
    if !rustix::process::geteuid().is_root() {
        return Err(NetworkError::NotRoot);
    }
    let needed = ["ip", "setpriv"];
    if let Some(missing) = needed.into_iter().find(|name| !is_installed(name)) {
        return Err(NetworkError::Unavailable(format!("{missing} is not installed")));
    }
    let (host, device) = Host::start(Home::OUTSIDE)
        .map_err(|error| NetworkError::Unavailable(format!("no TUN device in a namespace: {error}")))?;
    drop(device);
    drop(host);
    Ok(())
}

fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

impl Network {
    /// Makes all of it. What is drawn (jitter, loss) is drawn from the seed.
    ///
    /// # Errors
    ///
    /// Not root, or the kernel refuses; nothing is left of what was made.
    pub(crate) fn start(topology: &Topology, seed: u64) -> Result<Network, NetworkError> {
        let nodes = topology.nodes.len();
        if nodes > NODES_MAX {
            return Err(NetworkError::TooMany(nodes));
        }
        check()?;
        let (emulation, translation) = (Emulation::new(topology, seed), Translation::new(topology));
        let shared = Arc::new(Shared::new(emulation, translation).map_err(NetworkError::Thread)?);
        let homes = homes(topology);
        let (mut hosts, mut devices) = (Vec::new(), Vec::new());
        for (place, home) in topology.nodes.iter().zip(&homes) {
            let started = Host::start(*home);
            let (host, device) = started.map_err(|cause| NetworkError::Host { node: place.name.clone(), cause })?;
            hosts.push(host);
            devices.push(device);
        }
        let for_thread = shared.clone();
        let forwarder = Builder::new()
            .name("forward".to_owned())
            .spawn(move || forward(&for_thread, &devices))
            .map_err(NetworkError::Thread)?;
        Ok(Network { hosts, homes, shared, forwarder: Some(forwarder) })
    }

    /// Starts a process on a node. It should be a [`bound`](super::host::bound) command, which ends with the network.
    pub(crate) fn spawn(&self, node: usize, command: Command) -> io::Result<Child> {
        self.hosts[node].spawn(command)
    }

    /// A UDP socket of a node, on its address.
    pub(crate) fn udp(&self, node: usize, port: u16) -> io::Result<UdpSocket> {
        self.hosts[node].udp(self.homes[node].address, port)
    }

    /// Where a node is.
    pub(crate) fn home(&self, node: usize) -> Home {
        self.homes[node]
    }

    /// Takes a node's network interface up or down.
    pub(crate) fn plug(&self, node: usize, is_up: bool) -> io::Result<()> {
        self.hosts[node].plug(self.homes[node], is_up)
    }

    /// Lets the router before a node forget its mappings, as when it starts again; false where there is none.
    pub(crate) fn rebind(&self, node: usize) -> bool {
        self.shared.forget(node)
    }

    /// The namespace of a node, for nsenter(1); it is there as long as the network.
    pub(crate) fn namespace(&self, node: usize) -> PathBuf {
        PathBuf::from(format!("/proc/{}/task/{}/ns/net", std::process::id(), self.hosts[node].tid()))
    }

    /// Lets nothing pass from one node to another; what is on its way there is lost.
    pub(crate) fn cut_one_way(&self, from: usize, to: usize) {
        self.shared.with(|emulation, _| emulation.cut(from, to));
    }

    /// Lets nothing pass between two nodes.
    pub(crate) fn cut(&self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Changes what the line from one node to another is like, in this direction only.
    pub(crate) fn bend_one_way(&self, from: usize, to: usize, bend: &Bend) {
        self.shared.with(|emulation, now_ns| emulation.bend(now_ns, from, to, bend));
    }

    /// Changes what the line between two nodes is like.
    pub(crate) fn bend(&self, a: usize, b: usize, bend: &Bend) {
        self.bend_one_way(a, b, bend);
        self.bend_one_way(b, a, bend);
    }

    /// Undoes cuts and bends between two nodes.
    pub(crate) fn heal(&self, a: usize, b: usize) {
        self.shared.with(|emulation, now_ns| {
            emulation.heal(now_ns, a, b);
            emulation.heal(now_ns, b, a);
        });
    }

    /// Whether packets are still carried. Where not, the forwarding thread has failed, and nothing passes any more.
    pub(crate) fn is_forwarding(&self) -> bool {
        self.forwarder.as_ref().is_some_and(|forwarder| !forwarder.is_finished())
    }

    /// Directions that are cut or bent.
    pub(crate) fn changed(&self) -> Vec<Changed> {
        self.shared.with(|emulation, _| emulation.changed())
    }

    /// What became of all packets so far.
    pub(crate) fn traffic(&self) -> Traffic {
        let lines = self.shared.with(|emulation, _| emulation.counters());
        Traffic {
            lines,
            foreign: self.shared.foreign(),
            refused: self.shared.refused(),
            untranslated: self.shared.untranslated(),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(forwarder) = self.forwarder.take() {
            // Nothing passes any more, whether it ended well or not.
            let _ = forwarder.join();
        }
    }
}
