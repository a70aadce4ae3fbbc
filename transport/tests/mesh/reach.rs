//! A node that nobody can dial: a translator stands between it and the others, and a hub relays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use transport::*;

use crate::net::*;

const DATAGRAM_MAX: usize = 65_535;

/// Translates the addresses of those that send to it, and lets in only what comes from where they send to (a port-restricted
/// translator with one destination).
struct Translator {
    port: u16,
    forget: mpsc::UnboundedSender<()>,
}

impl Translator {
    async fn to(outside: u16) -> Translator {
        let target = SocketAddr::from(([127, 0, 0, 1], outside));
        let inner = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let port = inner.local_addr().unwrap().port();
        let (forget, mut forgets) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (mut buffer, mut outer) = (vec![0; DATAGRAM_MAX], BTreeMap::<SocketAddr, Mapping>::new());
            loop {
                tokio::select! {
                    Some(()) = forgets.recv() => outer.clear(),
                    Ok((length, from)) = inner.recv_from(&mut buffer) => {
                        let mapping = outer.entry(from).or_insert_with(|| Mapping::new(target, inner.clone(), from));
                        let _ = mapping.socket.send_to(&buffer[..length], target).await;
                    }
                    else => return,
                }
            }
        });
        Translator { port, forget }
    }

    /// Forgets all mappings: the same sender looks like another one from now on.
    fn forget(&self) {
        self.forget.send(()).unwrap();
    }
}

/// How a sender looks outside, for as long as it is remembered.
struct Mapping {
    socket: Arc<UdpSocket>,
    back: AbortHandle,
}

impl Mapping {
    fn new(target: SocketAddr, inner: Arc<UdpSocket>, to: SocketAddr) -> Mapping {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = Arc::new(UdpSocket::from_std(socket).unwrap());
        let back = tokio::spawn(back(socket.clone(), target, inner, to)).abort_handle();
        Mapping { socket, back }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.back.abort();
    }
}

async fn back(outer: Arc<UdpSocket>, target: SocketAddr, inner: Arc<UdpSocket>, to: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    while let Ok((length, from)) = outer.recv_from(&mut buffer).await {
        if from == target {
            let _ = inner.send_to(&buffer[..length], to).await;
        }
    }
}

/// The address of a circuit that the hub carries.
fn over(hub: &Peer) -> String {
    let id = libp2p::identity::ed25519::PublicKey::try_from_bytes(&hub.key().0).unwrap();
    let id = libp2p::identity::PublicKey::from(id).to_peer_id();
    format!("{}/p2p/{id}/p2p-circuit", quic(hub.mesh.port()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_translator_a_node_is_joined_over_a_relay() {
    let mut config = Config::new(secret(2), Listen::loopback());
    // On this machine a dial to the inside would get through. (Holes are punched in the lab's scenario behind-nat.)
    (config.reach.autonat, config.reach.dcutr) = (false, false);
    let (mut hub, mut inside, outside) = (Peer::start(1).await, Peer::with(config, |_| true), Peer::start(3).await);
    let translator = Translator::to(hub.mesh.port()).await;
    inside.mesh.dial(hub.key(), vec![quic(translator.port)]).unwrap();
    outside.mesh.dial(hub.key(), vec![quic(hub.mesh.port())]).unwrap();
    for _ in 0..2 {
        hub.up().await;
    }
    let over = over(&hub);
    let told = |event: &Event| matches!(event, Event::Reachable { addr } if *addr == over).then_some(());
    inside.find(told).await;
    assert_eq!(inside.mesh.snapshot().await.relays, [hub.key()]);
    assert!(outside.mesh.snapshot().await.relays.is_empty(), "nothing stands between the two");

    let (asker, key) = (outside.mesh.clone(), inside.key());
    let to = vec![quic(free_port()), over.clone()];
    let asked = tokio::spawn(async move { asker.join(key, to, b"let me in".to_vec()).await });
    let request = inside.find(|event| match event {
        Event::JoinRequest { id, bytes, .. } => Some((*id, bytes.clone())),
        _ => None,
    });
    let (id, bytes) = request.await;
    assert_eq!(bytes, b"let me in");
    inside.mesh.answer_join(id, b"welcome".to_vec()).unwrap();
    assert_eq!(asked.await.unwrap(), Ok(b"welcome".to_vec()));

    within("the circuit is closed", async || outside.mesh.snapshot().await.connections == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_dialled_is_reached_and_asks_nobody() {
    let (mut one, mut other) = (Peer::start(1).await, Peer::start(2).await);
    one.mesh.dial(other.key(), vec![quic(other.mesh.port())]).unwrap();
    one.up().await;
    other.up().await;
    let port = other.mesh.port();
    within("what was dialled is proven", async || other.mesh.snapshot().await.reachable.contains(&quic(port))).await;
    assert!(one.mesh.snapshot().await.relays.is_empty() && other.mesh.snapshot().await.relays.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_no_circuit() {
    // The hub does not admit who asks for a reservation: the session fails, and so does the circuit.
    let mut hub = Peer::admitting(1, |peer| *peer != key_of(2)).await;
    let (mut inside, mut outside) = (Peer::start(2).await, Peer::start(3).await);
    let translator = Translator::to(hub.mesh.port()).await;
    outside.mesh.dial(hub.key(), vec![quic(hub.mesh.port())]).unwrap();
    hub.up().await;
    inside.mesh.dial(hub.key(), vec![quic(translator.port)]).unwrap();
    let failed = |event: &Event| match event {
        Event::DialFailed { errors, .. } => Some(errors.clone()),
        _ => None,
    };
    assert_eq!(inside.find(failed).await, ["the peer does not admit us"]);
    outside.mesh.dial(inside.key(), vec![over(&hub)]).unwrap();
    let errors = outside.find(failed).await;
    assert!(errors.len() == 1 && errors[0].contains("/p2p-circuit"), "{errors:?}");
    assert!(inside.mesh.snapshot().await.relays.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_off_nobody_is_asked_and_nothing_is_carried() {
    let mut config = Config::new(secret(2), Listen::loopback());
    config.reach = Reaching::NONE;
    let (mut hub, mut inside) = (Peer::start(1).await, Peer::with(config, |_| true));
    let translator = Translator::to(hub.mesh.port()).await;
    inside.mesh.dial(hub.key(), vec![quic(translator.port)]).unwrap();
    hub.up().await;
    let observed = |event: &Event| matches!(event, Event::Observed { .. }).then_some(());
    inside.find(observed).await;
    let snapshot = inside.mesh.snapshot().await;
    assert!(snapshot.relays.is_empty() && snapshot.reachable.is_empty(), "{snapshot:?}");
}

/// QUIC connections do not survive that in libp2p, which switches migration off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_translator_that_forgets_costs_a_link_that_is_renewed() {
    // Both the judge and the other end are behind it.
    for (hub, inside) in [(1, 2), (2, 1)] {
        let (mut hub, mut inside) = (Peer::start(hub).await, Peer::start(inside).await);
        let translator = Translator::to(hub.mesh.port()).await;
        let addrs = vec![quic(translator.port)];
        inside.mesh.renew(hub.key(), addrs.clone()).unwrap();
        assert!(inside.mesh.snapshot().await.dialing.is_empty(), "there is nothing to renew");
        inside.mesh.dial(hub.key(), addrs.clone()).unwrap();
        let before = [inside.up().await.session, hub.up().await.session];
        translator.forget();
        inside.mesh.renew(hub.key(), addrs).unwrap();
        let downs = [inside.down().await, hub.down().await];
        assert_eq!(downs, before.map(|session| (session, DownReason::Replaced)));
        let after = [inside.up().await.session, hub.up().await.session];
        inside.mesh.send(after[0], Stream::Data, b"here again".to_vec()).unwrap();
        assert_eq!(hub.frame(after[1], Stream::Data).await, b"here again");
    }
}
