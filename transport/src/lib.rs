//! The mesh's connections: at most one session a peer, two streams of frames in each, over QUIC or TCP.
//!
//! Frames are opaque bytes. This crate knows no role, no fleet and no document: it asks its owner for each connection
//! whether the peer is admitted ([`Admit`]), and tells it what happens ([`Event`]). Whoever is not admitted reaches only
//! `/fleetsync/join/1`: one request, one answer.
//!
//! * **One task owns the libp2p swarm** (`swarm`). It never waits for anyone: orders come in through a bounded channel, its
//!   notifications go out through a bounded queue that overflows into [`Event::Resync`].
//! * **One task a session** (`session::io`) moves the payload between the two streams and the owner. It waits where the
//!   owner waits: an owner that stops reading events stops the peer's writer, through the transport's flow control.
//! * **Where nobody can dial a node** (`reach`) a member relays the first words, and both ends punch a hole (`swarm::reach`).
//! * **One of the two ends decides** which of several connections carries the session (`session::duel`).
//! * **Pure beside that**, driven by the owner: which links are alive (`liveness`), what they are like (`measure`), what
//!   they cost (`cost`), the ways to every node (`routes`), where the mesh is thin (`cuts`), whom to hold links to (`overlay`)
//!   and when to dial them (`dials`), when to do what is asked for often (`gathering`), requests that go these ways
//!   ([`forward`]), and which part of a blob is asked of whom ([`fetch`]).
//! * **Beside it a bulk plane** ([`bulk`]): long answers over raw QUIC, or over streams of a session's connection.
//! * Over QUIC a silent peer is lost after 10 s; **over TCP nothing notices**: liveness is the owner's, who probes on the
//!   control stream and calls [`Handle::close`].
//!
//! ```no_run
//! # async fn example() -> Result<(), transport::StartError> {
//! use std::sync::Arc;
//! use transport::{Config, Event, Listen, PeerKey, Stream, spawn};
//!
//! let friend = PeerKey([7; 32]);
//! let config = Config::new([1; 32], Listen::everywhere(4001));
//! let (mesh, mut events) = spawn(config, Arc::new(move |peer: &PeerKey| *peer == friend))?;
//! let _ = mesh.dial(friend, vec!["/dns4/friend.example/udp/4001/quic-v1".to_owned()]);
//! while let Some(event) = events.recv().await {
//!     if let Event::SessionUp { session, .. } = event {
//!         let _ = mesh.send(session, Stream::Control, b"hello".to_vec());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs, unreachable_pub)]

mod address;
pub mod bulk;
mod config;
mod cost;
mod cuts;
mod dials;
mod event;
pub mod fetch;
pub mod forward;
mod gathering;
mod handle;
mod join;
mod liveness;
mod measure;
mod overlay;
mod peer;
mod rate;
mod reach;
mod routes;
mod session;
mod swarm;

pub use address::{BadAddress, addresses_of};
pub use config::{Config, Listen, Reaching, StartError};
pub use cost::{Cost, CostParts, LinkKind, LinkState};
pub use cuts::{Cut, Cuts, cuts};
pub use dials::{Dial, Dials, Due};
pub use event::{DownReason, Event, SessionId, Stream};
pub use gathering::{Gathering, REPORT_DAMP_MAX, REPORT_LATER, REPORT_SOON, SEARCH_DAMP_MAX_A_NODE, SEARCH_SOON};
pub use handle::{Handle, OrderError, SessionState, Snapshot, Traffic};
pub use join::{AnswerError, JOIN_TIMEOUT, JoinError, MAX_JOIN_BYTES};
pub use liveness::{Liveness, Suspected, Verdict};
pub use measure::{Measured, Meter};
pub use overlay::{LetGo, Overlay, Reason, Surroundings};
pub use peer::{BadPeerKey, PeerKey};
pub use routes::{MAX_LINKS, MAX_NODES, MAX_WAYS, Routes, Way};
pub use session::frame::{FRAME_OVERHEAD_BYTES, MAX_FRAME_BYTES};
pub use session::outbox::{SendError, WRITE_BUDGET_BYTES};
pub use swarm::{Admit, EVENT_QUEUE, MAX_ADDRS, spawn};
