//! What is asked on the bulk plane, and how answers begin. Golden bytes below; version 1.
//!
//! ```text
//! request   postcard of [`Request`], at most 4 KiB
//! answer    length (1 byte), postcard of [`Head`], then for a part its bao encoding
//! request   2 (1 byte), token (8 bytes, big endian): the data stream of the session with the asker (decision 022)
//! answer    its frames, until there are none for a while
//! request   3 (1 byte): the port of the bulk plane, asked over the session's connection by who has not heard of it yet
//! answer    3 (1 byte), the port (2 bytes, big endian); 0 where there is none
//! ```

use std::ops::Range;

use serde::{Deserialize, Serialize};
use transport::PeerKey;

use super::store::{BLOB_BYTES_MAX, BlobId};

/// Most devices that a request passes.
pub(crate) const PASSED_MAX: usize = 8;
/// Most bytes that are asked for at once.
const PART_BYTES_MAX: u64 = 4 << 20;
const VERSION: u8 = 1;
/// Begins the request for a data stream, where others have their version.
const DATA_STREAM: u8 = 2;

/// The request for the port of the bulk plane, and how the answer begins.
pub(crate) const PORT: [u8; 1] = [3];

/// The answer to [`PORT`].
pub(crate) fn port_answer(port: u16) -> Vec<u8> {
    [&PORT[..], &port.to_be_bytes()].concat()
}

/// The port, where there is one.
pub(crate) fn port_of(answer: &[u8]) -> Option<u16> {
    let port = answer.strip_prefix(&PORT)?.try_into().map(u16::from_be_bytes).ok()?;
    (port != 0).then_some(port)
}

/// The request for the data stream of the session with the asker, which knows it by the token.
pub(crate) fn data_stream(token: u64) -> Vec<u8> {
    let mut bytes = vec![DATA_STREAM];
    bytes.extend(token.to_be_bytes());
    bytes
}

/// The token, where it is such a request.
pub(crate) fn data_stream_token(request: &[u8]) -> Option<u64> {
    let (&DATA_STREAM, token) = request.split_first()? else { return None };
    token.try_into().ok().map(u64::from_be_bytes)
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// Only the head: whether the blob is there, and its size.
    Size,
    /// The bytes from the first number to before the second.
    Part(u64, u64),
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    version: u8,
    blob: [u8; 32],
    pub(crate) what: What,
    /// Who is to answer.
    pub(crate) holder: PeerKey,
    /// Those whom it has passed, the asker first.
    pub(crate) passed: Vec<PeerKey>,
}

impl Request {
    pub(crate) fn new(blob: BlobId, what: What, holder: PeerKey, asker: PeerKey) -> Request {
        Request { version: VERSION, blob: blob.0, what, holder, passed: vec![asker] }
    }

    pub(crate) fn blob(&self) -> BlobId {
        BlobId(self.blob)
    }

    /// The bytes that are asked for; none where only the size is.
    pub(crate) fn bytes(&self) -> Option<Range<u64>> {
        match self.what {
            What::Size => None,
            What::Part(start, end) => Some(start..end),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a request can be encoded")
    }

    /// Nothing that is malformed, of another version, or out of bounds.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Request> {
        let (request, rest) = postcard::take_from_bytes::<Request>(bytes).ok()?;
        let is_in_bounds = match request.what {
            What::Size => true,
            What::Part(start, end) => {
                start < end && end - start <= PART_BYTES_MAX && end <= BLOB_BYTES_MAX && start.is_multiple_of(GROUP)
            }
        };
        let is_sound = rest.is_empty() && request.version == VERSION && is_in_bounds;
        (is_sound && (1..=PASSED_MAX).contains(&request.passed.len())).then_some(request)
    }
}

const GROUP: u64 = transport::fetch::GROUP_BYTES;

/// How an answer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Head {
    /// The blob is there and has so many bytes; what was asked for follows.
    Here { size: u64 },
    /// It is not there.
    Absent,
    /// Whoever was asked has too much to do, or no way to the holder.
    Unable,
    /// The request was malformed, of another version, or out of bounds.
    Malformed,
}

impl Head {
    pub(crate) fn encode(self) -> Vec<u8> {
        let body = postcard::to_stdvec(&self).expect("a head can be encoded");
        let mut bytes = vec![body.len() as u8];
        bytes.extend(body);
        bytes
    }

    /// The head, and how long it is, as soon as all of it is there.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<(Head, usize)>, ()> {
        let Some((length, rest)) = bytes.split_first() else { return Ok(None) };
        let Some(body) = rest.get(..usize::from(*length)) else { return Ok(None) };
        postcard::from_bytes(body).map(|head| Some((head, body.len() + 1))).map_err(|_| ())
    }
}

/// The most that an answer has beside the bytes that were asked for: the head, the pairs of hashes above the first and the
/// last group, and one a group between.
pub(crate) fn answer_bytes_max(bytes: &Range<u64>) -> u64 {
    let length = bytes.end - bytes.start;
    256 + length + 64 * (length / GROUP + 2 + 2 * 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::new(BlobId([0xab; 32]), What::Part(16_384, 50_000), PeerKey([2; 32]), PeerKey([1; 32]))
    }

    #[test]
    fn golden_bytes() {
        let mut expected = vec![1];
        expected.extend([0xab; 32]);
        expected.extend([1, 0x80, 0x80, 1, 0xd0, 0x86, 3]);
        expected.extend([2; 32]);
        expected.push(1);
        expected.extend([1; 32]);
        assert_eq!(request().encode(), expected);
        assert_eq!(Request::decode(&expected), Some(request()));
        assert_eq!(Head::Here { size: 300 }.encode(), [3, 0, 0xac, 2]);
        assert_eq!([Head::Absent, Head::Unable, Head::Malformed].map(|head| head.encode()[1]), [1, 2, 3]);
    }

    #[test]
    fn a_data_stream_is_asked_for_by_its_token() {
        assert_eq!(data_stream(0x0102_0304_0506_0708), [2, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(data_stream_token(&data_stream(u64::MAX)), Some(u64::MAX));
        for other in [&[][..], &[2], &[2; 10], &request().encode()] {
            assert_eq!(data_stream_token(other), None);
        }
        assert!(Request::decode(&data_stream(7)).is_none());
    }

    #[test]
    fn a_port_is_asked_for_and_answered() {
        assert_eq!(port_answer(4411), [3, 0x11, 0x3b]);
        assert_eq!(port_of(&port_answer(4411)), Some(4411));
        for none in [&[][..], &[3, 0, 0], &[3, 1], &[3, 1, 2, 3], &Head::Malformed.encode()] {
            assert_eq!(port_of(none), None);
        }
        assert!(Request::decode(&PORT).is_none() && data_stream_token(&PORT).is_none());
    }

    #[test]
    fn what_is_out_of_bounds_is_no_request() {
        let with = |change: fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            Request::decode(&request.encode())
        };
        assert!(with(|_| {}).is_some());
        assert!(with(|request| request.version = 2).is_none());
        assert!(with(|request| request.what = What::Part(5, 6)).is_none());
        assert!(with(|request| request.what = What::Part(16_384, 16_384)).is_none());
        assert!(with(|request| request.what = What::Part(0, PART_BYTES_MAX + 1)).is_none());
        assert!(with(|request| request.what = What::Part(0, u64::MAX)).is_none());
        assert!(with(|request| request.passed.clear()).is_none());
        assert!(with(|request| request.passed = vec![PeerKey([1; 32]); PASSED_MAX + 1]).is_none());
        let mut long = request().encode();
        long.push(0);
        assert!(Request::decode(&long).is_none());
        for length in 0..request().encode().len() {
            assert!(Request::decode(&request().encode()[..length]).is_none());
        }
    }

    #[test]
    fn a_head_is_taken_once_it_is_whole() {
        let mut bytes = Head::Here { size: 1 << 40 }.encode();
        for length in 0..bytes.len() {
            assert_eq!(Head::decode(&bytes[..length]), Ok(None));
        }
        bytes.push(9);
        assert_eq!(Head::decode(&bytes), Ok(Some((Head::Here { size: 1 << 40 }, bytes.len() - 1))));
        assert_eq!(Head::decode(&[1, 77]), Err(()));
    }
}
