//! Joining, and what a peer that is not admitted can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use transport::*;

use crate::net::*;

/// A host that admits nobody, answers each request with its text in upper case, and tells the requests.
async fn host() -> Peer {
    Peer::admitting(1, |_| false).await
}

async fn request(host: &mut Peer) -> (u64, PeerKey, Vec<u8>) {
    host.find(|event| match event {
        Event::JoinRequest { id, peer, bytes, .. } => Some((*id, *peer, bytes.clone())),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_no_session_but_can_join() {
    let (mut host, mut stranger) = (host().await, Peer::start(2).await);
    let addrs = vec![quic(host.mesh.port()), tcp(host.mesh.port())];
    stranger.mesh.dial(host.key(), addrs.clone()).unwrap();
    let errors = stranger.find(|event| match event {
        Event::DialFailed { errors, .. } => Some(errors.clone()),
        _ => None,
    });
    assert_eq!(errors.await, ["the peer does not admit us"]);

    let (asker, key) = (stranger.mesh.clone(), host.key());
    let asked = tokio::spawn(async move { asker.join(key, addrs, b"let me in".to_vec()).await });
    let (id, peer, bytes) = request(&mut host).await;
    assert_eq!((peer, bytes.as_slice()), (stranger.key(), b"let me in".as_slice()));
    host.mesh.answer_join(id, b"welcome".to_vec()).unwrap();
    assert_eq!(asked.await.unwrap(), Ok(b"welcome".to_vec()));
    assert_eq!(host.mesh.answer_join(id, Vec::new()), Err(AnswerError::Unknown));

    within("the connection is closed when its join is over", async || host.mesh.snapshot().await.connections == 0)
        .await;
    let sessions = |event: &Event| matches!(event, Event::SessionUp { .. });
    assert!(!host.unasked().iter().any(sessions) && !stranger.unasked().iter().any(sessions));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_joined_dials_at_once() {
    let admitted = Arc::new(AtomicBool::new(false));
    let now = admitted.clone();
    let mut host = Peer::admitting(1, move |_| now.load(Ordering::Relaxed)).await;
    let mut joiner = Peer::start(2).await;
    let addrs = vec![quic(host.mesh.port())];
    let (asker, key, to) = (joiner.mesh.clone(), host.key(), addrs.clone());
    let asked = tokio::spawn(async move { asker.join(key, to, b"ticket".to_vec()).await });
    let (id, _, _) = request(&mut host).await;
    admitted.store(true, Ordering::Relaxed);
    host.mesh.answer_join(id, b"certificate".to_vec()).unwrap();
    asked.await.unwrap().unwrap();
    // The join's connection is still there, or closing.
    joiner.mesh.dial(host.key(), addrs).unwrap();
    joiner.up().await;
    host.up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admitted_peer_joins_over_its_session_and_keeps_it() {
    let (mut a, mut b) = (Peer::start(1).await, Peer::start(2).await);
    a.mesh.dial(b.key(), vec![quic(b.mesh.port())]).unwrap();
    let (at_a, at_b) = (a.up().await, b.up().await);
    let (asker, key) = (b.mesh.clone(), a.key());
    let asked = tokio::spawn(async move { asker.join(key, Vec::new(), b"renew".to_vec()).await });
    let (id, _, _) = request(&mut a).await;
    a.mesh.answer_join(id, b"renewed".to_vec()).unwrap();
    assert_eq!(asked.await.unwrap(), Ok(b"renewed".to_vec()));
    a.mesh.send(at_a.session, Stream::Control, b"still up".to_vec()).unwrap();
    assert_eq!(b.frame(at_b.session, Stream::Control).await, b"still up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_joins_a_minute_then_refusals() {
    let (mut host, stranger) = (host().await, Peer::start(2).await);
    let addrs = vec![quic(host.mesh.port())];
    for n in 0..6 {
        let (asker, key, to) = (stranger.mesh.clone(), host.key(), addrs.clone());
        let asked = tokio::spawn(async move { asker.join(key, to, vec![n]).await });
        if n < 4 {
            let (id, _, _) = request(&mut host).await;
            host.mesh.answer_join(id, vec![n]).unwrap();
            assert_eq!(asked.await.unwrap(), Ok(vec![n]));
        } else {
            assert_eq!(asked.await.unwrap(), Err(JoinError::Refused));
        }
    }
    let other = Peer::start(3).await;
    let (key, to) = (host.key(), addrs);
    let asked = tokio::spawn(async move { other.mesh.join(key, to, b"me".to_vec()).await });
    let (id, _, _) = request(&mut host).await;
    host.mesh.answer_join(id, Vec::new()).unwrap();
    assert_eq!(asked.await.unwrap(), Err(JoinError::Refused), "an empty answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_errors_are_typed() {
    let (mut host, stranger) = (host().await, Peer::start(2).await);
    let addrs = vec![quic(host.mesh.port())];
    let mesh = &stranger.mesh;
    assert_eq!(mesh.join(host.key(), addrs.clone(), vec![0; MAX_JOIN_BYTES + 1]).await, Err(JoinError::TooLarge));
    let closed = vec![tcp(free_port())];
    assert!(
        matches!(mesh.join(host.key(), closed, vec![0]).await, Err(JoinError::Unreachable(errors)) if errors.len() == 1)
    );
    assert!(matches!(mesh.join(host.key(), Vec::new(), vec![0]).await, Err(JoinError::Unreachable(_))));

    let (asker, key) = (stranger.mesh.clone(), host.key());
    let asked = tokio::spawn(async move { asker.join(key, addrs, vec![7; MAX_JOIN_BYTES]).await });
    let (id, _, bytes) = request(&mut host).await;
    assert_eq!(bytes.len(), MAX_JOIN_BYTES);
    assert_eq!(host.mesh.answer_join(id, vec![0; MAX_JOIN_BYTES + 1]), Err(AnswerError::TooLong));
    host.mesh.answer_join(id, vec![8; MAX_JOIN_BYTES]).unwrap();
    assert!(asked.await.unwrap() == Ok(vec![8; MAX_JOIN_BYTES]));

    let handle = stranger.mesh.clone();
    stranger.mesh.shutdown().await;
    assert_eq!(handle.join(host.key(), Vec::new(), vec![0]).await, Err(JoinError::Stopped));
    assert_eq!(handle.dial(host.key(), Vec::new()), Err(OrderError::Stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_does_not_answer_is_a_timeout_or_a_refusal() {
    let (host, stranger) = (host().await, Peer::start(2).await);
    let answer = stranger.mesh.join(host.key(), vec![quic(host.mesh.port())], vec![0]).await;
    assert!(matches!(answer, Err(JoinError::Timeout | JoinError::Refused)), "{answer:?}");
}
