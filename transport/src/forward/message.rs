//! What neighbours say to each other of requests and of their link: postcard of [`Message`].

use serde::{Deserialize, Serialize};

use super::RequestId;
use crate::peer::PeerKey;

/// Most links that a request crosses.
pub const MAX_HOPS: usize = 8;
/// Most links that are known to have failed; with more, a request is given up.
pub const MAX_FAILED: usize = 16;
/// Longest body of a request or an answer, bytes.
pub const MAX_BODY_BYTES: usize = 20 << 10;
/// Longest message, bytes.
pub const MAX_MESSAGE_BYTES: usize = MAX_BODY_BYTES + 4096;

/// A message between two neighbours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// To be delivered, or handed on.
    Request(Request),
    /// To be handed back, the way the request came.
    Answer(Answer),
    /// The sender of this has no way for a request.
    NoWay(NoWay),
    /// The receiver did not answer the sender's probes: perhaps nothing of it arrives
    /// ([`Liveness::unheard`](crate::Liveness::unheard)).
    Unheard,
}

/// A request on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its name.
    pub id: RequestId,
    /// Who is asked.
    pub to: PeerKey,
    /// How many links it may still cross.
    pub ttl: u8,
    /// The nodes it was handed on by, the asker first.
    pub path: Vec<PeerKey>,
    /// Links that failed it, each end once.
    pub failed: Vec<(PeerKey, PeerKey)>,
    /// What is asked.
    pub body: Vec<u8>,
}

/// An answer on its way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The request.
    pub id: RequestId,
    /// The nodes that the request went over, the asker aside, the answerer last.
    pub hops: Vec<PeerKey>,
    /// What is answered.
    pub body: Vec<u8>,
}

/// A request comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoWay {
    /// The request.
    pub id: RequestId,
    /// Links that failed it.
    pub failed: Vec<(PeerKey, PeerKey)>,
}

/// Bytes are no message, or one that no node that keeps the rules sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of a forwarded request is malformed")]
pub struct Malformed;

impl Message {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain data always encodes")
    }

    /// Reads a message.
    ///
    /// # Errors
    ///
    /// It does not decode, something is left over, or it breaks a limit.
    pub fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(Malformed);
        }
        match postcard::take_from_bytes::<Message>(bytes) {
            Ok((message, [])) if message.is_within_limits() => Ok(message),
            _ => Err(Malformed),
        }
    }

    fn is_within_limits(&self) -> bool {
        match self {
            Message::Request(Request { ttl, path, failed, body, .. }) => {
                let is_fresh = usize::from(*ttl) + path.len() <= MAX_HOPS && are_distinct(path);
                is_fresh && failed.len() <= MAX_FAILED && body.len() <= MAX_BODY_BYTES
            }
            Message::Answer(Answer { hops, body, .. }) => hops.len() <= MAX_HOPS && body.len() <= MAX_BODY_BYTES,
            Message::NoWay(NoWay { failed, .. }) => failed.len() <= MAX_FAILED,
            Message::Unheard => true,
        }
    }
}

fn are_distinct(path: &[PeerKey]) -> bool {
    path.iter().enumerate().all(|(at, node)| !path[..at].contains(node))
}
