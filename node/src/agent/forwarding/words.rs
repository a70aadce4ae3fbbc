//! What is asked and answered end to end, and who vouches for it: postcard of [`Signed`], whose `said` is postcard of a
//! [`Question`] or a [`Reply`].

use crdt::id::{FleetId, Key};
use crdt::schema::Value;
use crdt::statement::SignatureBytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use transport::PeerKey;
use transport::forward::RequestId;

/// A question to a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Is it there?
    Ping,
    /// What does it say of itself?
    Facts {
        /// Only what lies at or below this path; empty for all.
        path: String,
        /// After this fact, which was the last one of the page before.
        after: Option<Place>,
    },
    /// What does its wall clock say?
    Clock,
}

/// Where a fact stands among all facts of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The kind of the document.
    pub(crate) document: String,
    /// The path in it.
    pub(crate) path: String,
}

/// A device's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// It is there.
    Pong,
    /// What it says of itself, in order of place; further facts follow these where that is said.
    Facts {
        /// A page of facts.
        facts: Vec<Fact>,
        /// Whether there are more.
        has_more: bool,
    },
    /// It does not answer that, and why.
    Refused(String),
    /// What its wall clock says.
    Clock {
        /// Milliseconds since 1970.
        wall_ms: u64,
    },
}

/// A value that a device says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fact {
    /// Where it stands.
    pub(crate) place: Place,
    /// The value.
    pub(crate) value: Value,
    /// Since it was written, by that device's clock, seconds.
    pub(crate) age_s: u64,
}

/// Words with a signature.
#[derive(Serialize, Deserialize)]
struct Signed {
    signature: SignatureBytes,
    said: Vec<u8>,
}

/// Between whom words are exchanged, and in which request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchange {
    pub(crate) fleet: FleetId,
    pub(crate) id: RequestId,
    pub(crate) to: Key,
}

impl Exchange {
    fn message(&self, label: &str, rest: &[&[u8]]) -> Vec<u8> {
        let number = self.id.number.to_be_bytes();
        let parts: [&[u8]; 5] = [label.as_bytes(), &self.fleet.0, &self.id.from.0, &self.to.0, &number];
        parts.iter().chain(rest).copied().flatten().copied().collect()
    }

    fn question(&self, said: &[u8]) -> Vec<u8> {
        self.message("fleetsync question v1", &[blake3::hash(said).as_bytes()])
    }

    /// The hops are hashed by themselves: their number differs.
    fn reply(&self, hops: &[PeerKey], said: &[u8]) -> Vec<u8> {
        let hops: Vec<u8> = hops.iter().flat_map(|hop| hop.0).collect();
        self.message("fleetsync answer v1", &[blake3::hash(&hops).as_bytes(), blake3::hash(said).as_bytes()])
    }

    /// A question with the asker's signature.
    pub(crate) fn sign_question(&self, key: &SigningKey, question: &Question) -> Vec<u8> {
        let said = encode(question);
        encode(&Signed { signature: sign(key, &self.question(&said)), said })
    }

    /// The question, where the asker signed it.
    pub(crate) fn verify_question(&self, body: &[u8]) -> Option<Question> {
        let Signed { signature, said } = decode(body)?;
        let asker = Key(self.id.from.0);
        is_signed(&asker, &self.question(&said), &signature).then(|| decode(&said)).flatten()
    }

    /// An answer with the answerer's signature.
    pub(crate) fn sign_reply(&self, key: &SigningKey, hops: &[PeerKey], reply: &Reply) -> Vec<u8> {
        let said = encode(reply);
        encode(&Signed { signature: sign(key, &self.reply(hops, &said)), said })
    }

    /// The answer, where the answerer signed it.
    pub(crate) fn verify_reply(&self, hops: &[PeerKey], body: &[u8]) -> Option<Reply> {
        let Signed { signature, said } = decode(body)?;
        is_signed(&self.to, &self.reply(hops, &said), &signature).then(|| decode(&said)).flatten()
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data always encodes")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

fn sign(key: &SigningKey, message: &[u8]) -> SignatureBytes {
    SignatureBytes(key.sign(message).to_bytes())
}

fn is_signed(by: &Key, message: &[u8], signature: &SignatureBytes) -> bool {
    let signature = Signature::from_bytes(&signature.0);
    VerifyingKey::from_bytes(&by.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(key: &SigningKey, to: &SigningKey) -> Exchange {
        let id = RequestId { from: PeerKey(key.verifying_key().to_bytes()), number: 300 };
        Exchange { fleet: FleetId([9; 32]), id, to: Key(to.verifying_key().to_bytes()) }
    }

    fn keys() -> [SigningKey; 2] {
        [3, 4].map(|seed| SigningKey::from_bytes(&[seed; 32]))
    }

    fn place(path: &str) -> Place {
        Place { document: "device".to_owned(), path: path.to_owned() }
    }

    fn facts() -> Reply {
        let fact = Fact { place: place("a.b"), value: Value::Uint(300), age_s: 5 };
        Reply::Facts { facts: vec![fact], has_more: true }
    }

    /// Golden: versions mix on the wire.
    #[test]
    fn golden_words() {
        let after = Some(place("a"));
        let questions = [Question::Ping, Question::Facts { path: "a".to_owned(), after }, Question::Clock];
        let replies = [Reply::Pong, facts(), Reply::Refused("why".to_owned()), Reply::Clock { wall_ms: 300 }];
        let said: Vec<String> = questions.iter().map(encode).chain(replies.iter().map(encode)).map(hex).collect();
        assert_eq!(
            said,
            [
                "00",
                "01016101066465766963650161",
                "02",
                "00",
                "01010664657669636503612e6203ac020501",
                "0203776879",
                "03ac02"
            ]
        );
        let [asker, answerer] = keys();
        let exchange = exchange(&asker, &answerer);
        let hops = [PeerKey([1; 32]), PeerKey([2; 32])];
        let question = hex(exchange.sign_question(&asker, &Question::Ping));
        let reply = hex(exchange.sign_reply(&answerer, &hops, &Reply::Pong));
        assert_eq!([question, reply], GOLDEN);
    }

    const GOLDEN: [&str; 2] = [
        "a9e0e75484dad547be7fc0405e63f91335f4392c53186370d3294ee63ed7e688e9983897119924c731763bdfa28d2735\
         cd6f6cecfd279fef1a4a1a055655a9030100",
        "737914bbd42cd63235828369b5248590150b87054bca9001a838559f64140eb2359b1c474ebf0ed8db34f4972b5596f3\
         8eecf4bb0db506e53db2018f2e5dc1020100",
    ];

    fn hex(bytes: Vec<u8>) -> String {
        crdt::id::hex(&bytes)
    }

    #[test]
    fn words_of_others_or_of_another_exchange_are_not_believed() {
        let [asker, answerer] = keys();
        let exchange = exchange(&asker, &answerer);
        let hops = [PeerKey([1; 32])];
        let question = exchange.sign_question(&asker, &Question::Ping);
        let reply = exchange.sign_reply(&answerer, &hops, &facts());
        assert_eq!(exchange.verify_question(&question), Some(Question::Ping));
        assert_eq!(exchange.verify_reply(&hops, &reply), Some(facts()));
        let number = Exchange { id: RequestId { number: 301, ..exchange.id }, ..exchange };
        let fleet = Exchange { fleet: FleetId([8; 32]), ..exchange };
        let swapped = Exchange { id: RequestId { from: PeerKey(exchange.to.0), ..exchange.id }, ..exchange };
        for other in [number, fleet, swapped] {
            assert_eq!(other.verify_question(&question), None);
            assert_eq!(other.verify_reply(&hops, &reply), None);
        }
        assert_eq!(exchange.verify_reply(&[], &reply), None);
        assert_eq!(exchange.verify_question(&exchange.sign_question(&answerer, &Question::Ping)), None);
        assert_eq!(exchange.verify_reply(&hops, &exchange.sign_reply(&asker, &hops, &Reply::Pong)), None);
        for at in 0..reply.len() {
            let mut wrong = reply.clone();
            wrong[at] ^= 1;
            assert_eq!(exchange.verify_reply(&hops, &wrong), None, "byte {at}");
        }
    }
}
