//! What the agent's task knows of the bulk plane: who may use it, where peers have it, who has which blob, and the ways there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crdt::id::{DeviceId, Key};
use tokio::io::AsyncReadExt;
use transport::bulk::{AskError, Asked, Bulk, BulkError, BulkListen};
use transport::fetch::Via;
use transport::{PeerKey, SessionId};

use super::Node;
use crate::blobs::{BlobId, wire};
use crate::folder::{Folder, NodeFile};

/// The port where none is asked for.
pub(crate) const DEFAULT_BULK_PORT: u16 = 4411;
/// Most blobs that a device says it has.
pub(crate) const ANNOUNCED_MAX: usize = 64;
/// No answer about a port is longer.
const PORT_BYTES_MAX: u64 = 16;
/// Ways that cost so much more than the best are not used beside it, microseconds.
const NEARLY_EQUAL_MICROS: u64 = 2_000;
/// A way that is used already stays up to twice the best one's cost and this, microseconds: the queues that a blob makes on
/// two links are 40 ms (decision 018), and no reason to leave them.
const OWN_QUEUES_MICROS: u64 = 40_000;

/// The port of the bulk plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BulkPort {
    /// This one and no other; 0 for any.
    Fixed(u16),
    /// This one, or any where it is taken.
    Preferred(u16),
}

/// The bulk plane of a node, for whoever asks and answers there.
pub(crate) struct Plane {
    pub(crate) bulk: Bulk,
    /// For streams where UDP does not pass.
    pub(crate) mesh: transport::Handle,
    pub(crate) asked: tokio::sync::mpsc::Receiver<Asked>,
}

/// Starts the bulk plane on the addresses of the mesh.
pub(super) fn start(
    secret: [u8; 32],
    ips: &[IpAddr],
    port: BulkPort,
    admit: &transport::Admit,
) -> Result<(Bulk, tokio::sync::mpsc::Receiver<Asked>), BulkError> {
    let on = |port| Bulk::start(secret, &BulkListen { ips: ips.to_vec(), port }, admit.clone());
    match port {
        BulkPort::Fixed(port) => on(port),
        BulkPort::Preferred(port) => match on(port) {
            Err(BulkError::PortTaken { .. }) => on(0),
            started => started,
        },
    }
}

/// Keeps the port, so that peers find it again; a folder that cannot be written picks another one next time.
pub(super) fn keep_port(folder: &Folder, port: u16) {
    let kept = folder.node().and_then(|node| {
        let is_new = port != 0 && node.bulk_port != Some(port);
        if is_new { folder.write_node(&NodeFile { bulk_port: Some(port), ..node }) } else { Ok(()) }
    });
    if let Err(error) = kept {
        tracing::warn!(%error, port, "the port of the bulk plane was not kept");
    }
    tracing::info!(port, "the bulk plane listens");
}

/// A way to a holder and what it costs, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) via: Via,
    pub(crate) cost_micros: u64,
}

impl Node {
    /// What this device has whole, the newest [`ANNOUNCED_MAX`].
    pub(super) fn announce_blobs(&mut self, blobs: BTreeMap<BlobId, u64>) {
        if self.announced_blobs != blobs {
            self.announced_blobs = blobs;
            self.neighbours.blobs_changed(self.now());
        }
    }

    /// Who says that it has a blob whole, this device among them, and the blob's size in bytes.
    pub(crate) fn holders(&self) -> BTreeMap<BlobId, Vec<(DeviceId, u64)>> {
        let mut holders = BTreeMap::<BlobId, Vec<(DeviceId, u64)>>::new();
        for (device, said) in self.neighbours.reported().filter(|(device, _)| self.is_member(device)) {
            for (blob, size) in &said.blobs {
                holders.entry(*blob).or_default().push((*device, *size));
            }
        }
        holders
    }

    /// Where a member's bulk plane may be reached: at the host with which this node is linked first.
    pub(crate) fn bulk_addresses(&self, peer: &Key) -> Vec<SocketAddr> {
        let port = self.neighbours.said_by(&peer.device()).and_then(|said| said.bulk_port);
        port.map(|port| with_port(&self.hosts(peer), port)).unwrap_or_default()
    }

    /// The hosts of a peer's addresses, that of the link first.
    fn hosts(&self, peer: &Key) -> Vec<IpAddr> {
        let linked = self.sessions.with(peer).map(|session| session.address.clone());
        let mut hosts = Vec::new();
        for ip in linked.iter().chain(&self.neighbours.addresses(peer)).filter_map(|address| ip_of(address)) {
            if !hosts.contains(&ip) {
                hosts.push(ip);
            }
        }
        hosts
    }

    /// Much comes from a peer: what follows is asked for over the bulk plane. Where that does not pass, it comes as before.
    pub(super) fn take_over_bulk(&self, session: SessionId, peer: PeerKey) {
        if !self.bulk_backfill {
            return;
        }
        let (bulk, mesh) = (self.bulk.clone(), self.mesh.clone());
        let (hosts, known) = (self.hosts(&Key(peer.0)), self.bulk_addresses(&Key(peer.0)));
        let token = u64::from_be_bytes(crate::folder::random());
        tokio::spawn(async move {
            let asked = async {
                // A device that has just joined does not know yet what its peer says of itself.
                let addresses = if known.is_empty() { with_port(&hosts, port_of(&mesh, peer).await?) } else { known };
                bulk.ask(peer, &addresses, &wire::data_stream(token)).await
            };
            match asked.await {
                // An error means that the session is over.
                Ok(answer) => drop(mesh.take_over_bulk(session, token, answer)),
                Err(error) => tracing::debug!(%peer, %error, "a data stream stays beside the bulk plane"),
            }
        });
    }

    /// The ways to some devices that are nearly as good as the best, over links that are up; those that are used already stay
    /// a little longer. None while offline.
    pub(crate) fn ways_to_holders(&self, holders: &[Key], used: &[Via]) -> Vec<Offer> {
        if self.is_offline() {
            return Vec::new();
        }
        let offer = |holder: &Key, hop: PeerKey, cost_micros| Offer {
            via: Via { hop, holder: PeerKey(holder.0) },
            cost_micros,
        };
        let mut offers: Vec<Offer> = Vec::new();
        for holder in holders {
            let ways = self.routing.routes.ways(&PeerKey(holder.0));
            offers.extend(ways.iter().map(|way| offer(holder, way.next, u64::from(way.cost.micros()))));
            // A link that is not measured yet is no way, but good enough to be asked.
            if self.sessions.link_with(holder).is_some() && !offers.iter().any(|known| known.via.hop.0 == holder.0) {
                offers.push(offer(holder, PeerKey(holder.0), 0));
            }
        }
        nearly_best(&mut offers, used);
        offers
    }

    /// The neighbours that lead to a device, the best first.
    pub(crate) fn hops_to(&self, holder: &PeerKey) -> Vec<PeerKey> {
        let mut hops: Vec<PeerKey> = self.routing.routes.ways(holder).iter().map(|way| way.next).collect();
        if self.sessions.link_with(&Key(holder.0)).is_some() && !hops.contains(holder) {
            hops.insert(0, *holder);
        }
        hops
    }
}

/// Keeps what is worth being used beside the best.
fn nearly_best(offers: &mut Vec<Offer>, used: &[Via]) {
    let best = offers.iter().map(|offer| offer.cost_micros).min().unwrap_or(0);
    offers.retain(|offer| {
        let most = if used.contains(&offer.via) {
            2 * best + OWN_QUEUES_MICROS
        } else {
            best + best / 4 + NEARLY_EQUAL_MICROS
        };
        offer.cost_micros <= most
    });
}

fn with_port(hosts: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    hosts.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
}

/// Asks a peer for the port of its bulk plane.
async fn port_of(mesh: &transport::Handle, peer: PeerKey) -> Result<u16, AskError> {
    let mut bytes = Vec::new();
    let answer = mesh.ask_bulk(peer, wire::PORT.to_vec()).await?;
    answer.take(PORT_BYTES_MAX).read_to_end(&mut bytes).await.map_err(|error| AskError::Closed(error.to_string()))?;
    wire::port_of(&bytes).ok_or_else(|| AskError::Unreachable("its port is not known".to_owned()))
}

/// The IP address in a multiaddress; names are not asked for.
fn ip_of(address: &str) -> Option<IpAddr> {
    let mut parts = address.split('/').skip(1);
    matches!(parts.next(), Some("ip4" | "ip6")).then(|| parts.next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_in_use_is_kept_through_its_own_queue() {
        let via = |hop| Via { hop: PeerKey([hop; 32]), holder: PeerKey([9; 32]) };
        let kept = |costs: &[(u8, u64)], used: &[u8]| {
            let mut offers: Vec<Offer> =
                costs.iter().map(|(hop, cost_micros)| Offer { via: via(*hop), cost_micros: *cost_micros }).collect();
            nearly_best(&mut offers, &used.iter().map(|hop| via(*hop)).collect::<Vec<_>>());
            offers.iter().map(|offer| offer.via.hop.0[0]).collect::<Vec<u8>>()
        };
        assert_eq!(kept(&[(1, 30_000), (2, 39_500), (3, 39_501)], &[]), [1, 2]);
        assert_eq!(kept(&[(1, 30_000), (2, 100_000)], &[2]), [1, 2], "its cost is of its own making");
        assert_eq!(kept(&[(1, 30_000), (2, 100_001)], &[1, 2]), [1]);
        assert!(kept(&[], &[1]).is_empty());
    }

    #[test]
    fn hosts_of_addresses() {
        assert_eq!(ip_of("/ip4/10.1.2.3/udp/4410/quic-v1"), "10.1.2.3".parse().ok());
        assert_eq!(ip_of("/ip6/fd00::1/tcp/4410"), "fd00::1".parse().ok());
        for other in ["", "/", "/ip4", "/ip4/x/tcp/1", "/dns4/a.example/tcp/1", "ip4/10.1.2.3"] {
            assert_eq!(ip_of(other), None, "{other}");
        }
    }
}
