//! What the tests share: a peer, its events, waiting with a deadline.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use transport::*;

/// The longest that any test waits for one thing.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn quic(port: u16) -> String {
    format!("/ip4/127.0.0.1/udp/{port}/quic-v1")
}

pub(crate) fn tcp(port: u16) -> String {
    format!("/ip4/127.0.0.1/tcp/{port}")
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn secret(n: u8) -> [u8; 32] {
    [n; 32]
}

pub(crate) fn key_of(n: u8) -> PeerKey {
    let pair = libp2p::identity::Keypair::ed25519_from_bytes(secret(n)).unwrap();
    PeerKey(pair.public().try_into_ed25519().unwrap().to_bytes())
}

/// A session as its `SessionUp` told it.
#[derive(Debug, Clone)]
pub(crate) struct Up {
    pub(crate) session: SessionId,
    pub(crate) outbound: bool,
    pub(crate) addr: String,
}

/// A node of the mesh and the events that nobody has asked for yet.
pub(crate) struct Peer {
    pub(crate) mesh: Handle,
    pub(crate) events: mpsc::Receiver<Event>,
    seen: VecDeque<Event>,
}

impl Peer {
    pub(crate) async fn start(n: u8) -> Self {
        Self::admitting(n, |_| true).await
    }

    pub(crate) async fn admitting(n: u8, admit: impl Fn(&PeerKey) -> bool + Send + Sync + 'static) -> Self {
        Self::with(Config::new(secret(n), Listen::loopback()), admit)
    }

    pub(crate) fn with(config: Config, admit: impl Fn(&PeerKey) -> bool + Send + Sync + 'static) -> Self {
        let (mesh, events) = spawn(config, Arc::new(admit)).unwrap();
        Self { mesh, events, seen: VecDeque::new() }
    }

    pub(crate) fn key(&self) -> PeerKey {
        self.mesh.key()
    }

    /// The first event that `pick` picks; the others stay for later.
    pub(crate) async fn find<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        if let Some((index, found)) = self.seen.iter().enumerate().find_map(|(i, event)| Some((i, pick(event)?))) {
            self.seen.remove(index);
            return found;
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            let event = timeout(deadline - Instant::now(), self.events.recv()).await;
            let event =
                event.unwrap_or_else(|_| panic!("nothing came; unasked: {:?}", self.seen)).expect("the mesh runs");
            match pick(&event) {
                Some(found) => return found,
                None => self.seen.push_back(event),
            }
        }
    }

    pub(crate) async fn up(&mut self) -> Up {
        self.find(|event| match event {
            Event::SessionUp { session, outbound, addr, .. } => {
                Some(Up { session: *session, outbound: *outbound, addr: addr.clone() })
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn down(&mut self) -> (SessionId, DownReason) {
        self.find(|event| match event {
            Event::SessionDown { session, reason, .. } => Some((*session, reason.clone())),
            _ => None,
        })
        .await
    }

    pub(crate) async fn frame(&mut self, of: SessionId, on: Stream) -> Vec<u8> {
        self.find(|event| match event {
            Event::Frame { session, stream, bytes } if *session == of && *stream == on => Some(bytes.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn writable(&mut self, of: SessionId, on: Stream) -> usize {
        self.find(|event| match event {
            Event::Writable { session, stream, bytes } if *session == of && *stream == on => Some(*bytes),
            _ => None,
        })
        .await
    }

    /// Reads events from now on, and forgets them.
    pub(crate) fn drain(&mut self) {
        let (_, nothing) = mpsc::channel(1);
        let mut events = std::mem::replace(&mut self.events, nothing);
        tokio::spawn(async move { while events.recv().await.is_some() {} });
    }

    /// The events that have come and that nobody has asked for.
    pub(crate) fn unasked(&mut self) -> Vec<Event> {
        while let Ok(event) = self.events.try_recv() {
            self.seen.push_back(event);
        }
        self.seen.iter().cloned().collect()
    }
}

/// Waits until `condition` holds.
pub(crate) async fn within(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within the deadline: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
