//! Real swarms on 127.0.0.1.

use crate::net::*;
use transport::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_go_both_ways_on_both_streams_over_quic() {
    exchange(quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_go_both_ways_on_both_streams_over_tcp() {
    exchange(tcp).await;
}

async fn exchange(address: fn(u16) -> String) {
    let (mut a, mut b) = (Peer::start(1).await, Peer::start(2).await);
    a.mesh.dial(b.key(), vec![address(b.mesh.port())]).expect("an order");
    let (at_a, at_b) = (a.up().await, b.up().await);
    assert!(at_a.outbound && !at_b.outbound);
    let transport = if address(0).contains("quic") { "quic-v1" } else { "tcp" };
    assert!(at_a.addr.contains(transport) && !at_a.addr.contains("/p2p"), "{}", at_a.addr);
    for stream in [Stream::Control, Stream::Data] {
        for n in 1..100u8 {
            a.mesh.send(at_a.session, stream, vec![n; usize::from(n) * 10]).expect("room");
            b.mesh.send(at_b.session, stream, vec![n; usize::from(n) * 10]).expect("room");
        }
        for (peer, session) in [(&mut a, at_a.session), (&mut b, at_b.session)] {
            for n in 1..100u8 {
                assert_eq!(peer.frame(session, stream).await, vec![n; usize::from(n) * 10]);
            }
        }
    }
    let state = a.mesh.snapshot().await;
    assert_eq!(state.sessions.len(), 1);
    assert_eq!(state.sessions[0].data.bytes_in, 10 * (0..100).sum::<u64>());
    a.mesh.clone().shutdown().await;
    assert_eq!(a.down().await, (at_a.session, DownReason::Shutdown));
    assert_eq!(b.down().await, (at_b.session, DownReason::ClosedByPeer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_resolve() {
    let b = Peer::start(2).await;
    let port = b.mesh.port();
    for (n, address) in [(3, format!("/dns4/localhost/udp/{port}/quic-v1")), (4, format!("/dns4/localhost/tcp/{port}"))]
    {
        let mut a = Peer::start(n).await;
        a.mesh.dial(b.key(), vec![address]).expect("an order");
        a.up().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_fails_says_why() {
    let mut a = Peer::start(1).await;
    let nobody = key_of(9);
    let closed = free_port();
    a.mesh.dial(nobody, vec![tcp(closed), "nonsense".to_owned()]).expect("an order");
    let errors = a.find(|event| match event {
        Event::DialFailed { peer, errors } if *peer == nobody => Some(errors.clone()),
        _ => None,
    });
    assert!(errors.await.iter().any(|line| line.contains("refused")));
    a.mesh.dial(a.key(), vec![tcp(closed)]).expect("an order");
    let own = a.find(|event| matches!(event, Event::DialFailed { .. }).then_some(()));
    own.await;
}

/// As behind two routers that both hand out 192.168.0.2: who is there answers sooner than who is meant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_somebody_else_has_hides_no_other() {
    let (mut a, b, other) = (Peer::start(1).await, Peer::start(2).await, Peer::start(3).await);
    let own = a.mesh.port();
    for wrong in [quic(other.mesh.port()), quic(own), tcp(other.mesh.port())] {
        a.mesh.dial(b.key(), vec![wrong, quic(other.mesh.port()), tcp(b.mesh.port())]).unwrap();
        let up = a.up().await;
        assert_eq!(up.addr, tcp(b.mesh.port()));
        a.mesh.close(b.key()).unwrap();
        a.down().await;
        within("it is closed", async || a.mesh.snapshot().await.connections == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_at_an_address_is_a_failed_dial() {
    let (mut a, b) = (Peer::start(1).await, Peer::start(2).await);
    for address in [tcp(b.mesh.port()), quic(b.mesh.port())] {
        a.mesh.dial(key_of(9), vec![address]).expect("an order");
        a.find(|event| matches!(event, Event::DialFailed { .. }).then_some(())).await;
    }
    assert!(a.mesh.snapshot().await.sessions.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_close_the_peers_find_each_other_again() {
    let (mut a, mut b) = (Peer::start(1).await, Peer::start(2).await);
    for _ in 0..5 {
        a.mesh.dial(b.key(), vec![quic(b.mesh.port())]).expect("an order");
        let (at_a, at_b) = (a.up().await, b.up().await);
        b.mesh.send(at_b.session, Stream::Data, vec![5; 1000]).expect("room");
        b.mesh.close(a.key()).expect("an order");
        assert_eq!(b.down().await, (at_b.session, DownReason::Closed));
        assert_eq!(a.frame(at_a.session, Stream::Data).await, vec![5; 1000], "flushed");
        // Dials again at once, while the old connection is still closing.
        assert_eq!(a.down().await, (at_a.session, DownReason::ClosedByPeer));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_dials_end_in_one_session_on_one_connection() {
    for round in 0..20u8 {
        let address = if round % 2 == 0 { quic } else { tcp };
        let (mut a, mut b) = (Peer::start(1).await, Peer::start(2).await);
        a.mesh.dial(b.key(), vec![address(b.mesh.port())]).expect("an order");
        b.mesh.dial(a.key(), vec![address(a.mesh.port())]).expect("an order");
        a.up().await;
        b.up().await;
        // Whatever the duel still does is over when the losers are closed.
        within("one connection", async || {
            let (a, b) = (a.mesh.snapshot().await, b.mesh.snapshot().await);
            (a.connections, b.connections, a.sessions.len(), b.sessions.len()) == (1, 1, 1, 1)
                && a.dialing.is_empty()
                && b.dialing.is_empty()
        })
        .await;
        let (at_a, at_b) = (a.mesh.snapshot().await.sessions.remove(0), b.mesh.snapshot().await.sessions.remove(0));
        assert_ne!(at_a.outbound, at_b.outbound, "round {round}: both ends of one connection");
        a.mesh.send(at_a.session, Stream::Control, b"a".to_vec()).expect("room");
        b.mesh.send(at_b.session, Stream::Control, b"b".to_vec()).expect("room");
        assert_eq!(a.frame(at_a.session, Stream::Control).await, b"b");
        assert_eq!(b.frame(at_b.session, Stream::Control).await, b"a");
        a.mesh.shutdown().await;
        b.mesh.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_nodes_on_one_address_form_a_full_mesh() {
    let mut peers = Vec::new();
    for n in 1..=12 {
        peers.push(Peer::start(n).await);
    }
    let known: Vec<_> = peers.iter().map(|peer| (peer.key(), peer.mesh.port())).collect();
    for peer in &peers {
        for (key, port) in known.iter().filter(|(key, _)| *key != peer.key()) {
            peer.mesh.dial(*key, vec![quic(*port), tcp(*port)]).expect("an order");
        }
    }
    for peer in &mut peers {
        peer.drain();
    }
    within("a full mesh", async || {
        for peer in &peers {
            let state = peer.mesh.snapshot().await;
            if state.sessions.len() != 11 || state.connections != 11 {
                return false;
            }
        }
        true
    })
    .await;
}

#[test]
fn outside_a_runtime_there_is_a_typed_error() {
    let started = spawn(Config::new([1; 32], Listen::loopback()), std::sync::Arc::new(|_: &PeerKey| true));
    assert!(matches!(started, Err(StartError::NoRuntime)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_a_typed_error() {
    let a = Peer::start(1).await;
    let port = a.mesh.port();
    for _ in 0..2 {
        let listen = Listen { port, ..Listen::loopback() };
        let started = spawn(Config::new([2; 32], listen), std::sync::Arc::new(|_: &PeerKey| true));
        assert!(matches!(started, Err(StartError::PortTaken { port: p }) if p == port));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listens_on_one_port_for_both_transports_and_frees_it() {
    let mut a = Peer::start(1).await;
    let port = a.mesh.port();
    let mut listening = vec![tcp(port), quic(port)];
    while !listening.is_empty() {
        let addr = a.find(|event| match event {
            Event::Listening { addr } => Some(addr.clone()),
            _ => None,
        });
        let addr = addr.await;
        listening.retain(|expected| *expected != addr);
    }
    a.mesh.shutdown().await;
    assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
    assert!(std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listens_everywhere_and_finds_peers_or_not_but_starts() {
    let everywhere = |n| Config { mdns: true, ..Config::new(secret(n), Listen::everywhere(0)) };
    let (a, mut b) = (Peer::with(everywhere(1), |_| true), Peer::with(everywhere(2), |_| true));
    assert_ne!(a.mesh.port(), 0);
    b.mesh.dial(a.key(), vec![quic(a.mesh.port())]).expect("an order");
    b.up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_tells_how_it_sees_us() {
    let (mut a, b) = (Peer::start(1).await, Peer::start(2).await);
    a.mesh.dial(b.key(), vec![quic(b.mesh.port())]).expect("an order");
    let (key, expected) = (b.key(), quic(a.mesh.port()));
    a.find(|event| matches!(event, Event::Observed { peer, addr } if *peer == key && *addr == expected).then_some(()))
        .await;
}
