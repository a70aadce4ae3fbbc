//! Tickets: an invitation with its one-time secret and addresses, as one word that can be typed or scanned.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::id::{FleetId, Key, StatementId};
use crate::statement::{Body, SignedStatement, StatementError, StatementParts};

/// Longest ticket, characters.
pub const TICKET_CHARACTERS_MAX: usize = 1500;
/// Most addresses in a ticket.
pub const ADDRESSES_MAX: usize = 4;
/// What every ticket of this format starts with.
const PREFIX: &str = "fs1_";

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A member that takes joins: its key and where it may be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The member's key.
    pub peer: Key,
    /// A multiaddress without the peer's part.
    pub address: String,
}

/// What a ticket holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The fleet.
    pub fleet: FleetId,
    /// The current root statement.
    pub root: StatementId,
    /// The signed invitation.
    pub invitation: SignedInvitation,
    /// The secret of the invitation's one-time key.
    pub secret: [u8; 32],
    /// At most [`ADDRESSES_MAX`].
    pub addresses: Vec<Address>,
}

/// An invitation as a ticket carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedInvitation(pub StatementParts);

#[derive(Serialize, Deserialize)]
struct Content {
    fleet: FleetId,
    root: StatementId,
    invitation: SignedInvitation,
    secret: [u8; 32],
    addresses: Vec<Address>,
}

/// Why a text is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It does not start with the prefix of this format.
    #[error("a ticket starts with {PREFIX}")]
    Prefix,
    /// Longer than [`TICKET_CHARACTERS_MAX`].
    #[error("a ticket has at most {TICKET_CHARACTERS_MAX} characters")]
    Length,
    /// A character that tickets do not have.
    #[error("character {0} is none that a ticket has")]
    Character(usize),
    /// The checksum differs: a character is missing or was changed.
    #[error("the ticket was cut short or altered")]
    Checksum,
    /// The content does not decode.
    #[error("the ticket's content is malformed")]
    Content,
    /// The invitation does not verify.
    #[error("the ticket's invitation is not valid: {0}")]
    Invitation(StatementError),
    /// The secret is not that of the invitation.
    #[error("the ticket's secret does not belong to its invitation")]
    Secret,
}

fn encode_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, at| word << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..=chunk.len() {
            text.push(ALPHABET[(word >> (18 - 6 * at) & 63) as usize] as char);
        }
    }
    text
}

fn decode_text(text: &str) -> Result<Vec<u8>, TicketError> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let mut word = 0u32;
    let mut bits = 0;
    for (at, character) in text.bytes().enumerate() {
        let value = ALPHABET.iter().position(|known| *known == character);
        let value = value.ok_or(TicketError::Character(PREFIX.len() + at))?;
        word = word << 6 | value as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    Ok(bytes)
}

impl Ticket {
    /// What the invitation says.
    pub fn invitation(&self) -> Result<SignedStatement, TicketError> {
        SignedStatement::from_parts(self.invitation.0.clone()).map_err(TicketError::Invitation)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = Content {
            fleet: self.fleet,
            root: self.root,
            invitation: self.invitation.clone(),
            secret: self.secret,
            addresses: self.addresses.clone(),
        };
        let mut bytes = postcard::to_stdvec(&content).map_err(|_| fmt::Error)?;
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..4]);
        write!(f, "{PREFIX}{}", encode_text(&bytes))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Ticket, TicketError> {
        if text.len() > TICKET_CHARACTERS_MAX {
            return Err(TicketError::Length);
        }
        let bytes = decode_text(text.strip_prefix(PREFIX).ok_or(TicketError::Prefix)?)?;
        let (content, checksum) = bytes.split_at_checked(bytes.len().saturating_sub(4)).ok_or(TicketError::Checksum)?;
        if blake3::hash(content).as_bytes()[..4] != *checksum {
            return Err(TicketError::Checksum);
        }
        let (content, rest): (Content, _) = postcard::take_from_bytes(content).map_err(|_| TicketError::Content)?;
        if !rest.is_empty() || content.addresses.len() > ADDRESSES_MAX {
            return Err(TicketError::Content);
        }
        let ticket = Ticket {
            fleet: content.fleet,
            root: content.root,
            invitation: content.invitation,
            secret: content.secret,
            addresses: content.addresses,
        };
        let one_time = Key(SigningKey::from_bytes(&ticket.secret).verifying_key().to_bytes());
        match Body::of(ticket.invitation()?.statement()).map_err(TicketError::Invitation)? {
            Body::Invitation(invitation) if invitation.key == one_time => Ok(ticket),
            _ => Err(TicketError::Secret),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::Invitation;
    use proptest::prelude::*;

    fn ticket() -> Ticket {
        let secret = [5; 32];
        let key = Key(SigningKey::from_bytes(&secret).verifying_key().to_bytes());
        let invitation = Invitation {
            key,
            name: "robot-7".to_owned(),
            zone: "yard".to_owned(),
            labels: [("rack".to_owned(), "b".to_owned())].into(),
            not_after_ms: 1_800_000_000_000,
        };
        let fleet = FleetId([1; 32]);
        let signed = Body::Invitation(invitation)
            .into_statement(Some(fleet), &[], 1_700_000_000_000)
            .sign(&SigningKey::from_bytes(&[6; 32]));
        let address = Address { peer: Key([7; 32]), address: "/ip4/192.0.2.1/udp/4410/quic-v1".to_owned() };
        Ticket {
            fleet,
            root: StatementId([1; 32]),
            invitation: SignedInvitation(signed.parts()),
            secret,
            addresses: vec![address; ADDRESSES_MAX],
        }
    }

    #[test]
    fn a_ticket_round_trips_and_is_short() {
        let text = ticket().to_string();
        assert!(text.len() <= TICKET_CHARACTERS_MAX, "{}", text.len());
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_eq!(text.parse(), Ok(ticket()));
    }

    /// Golden: tickets are printed, and typed into other versions.
    #[test]
    fn golden_ticket() {
        let text = ticket().to_string();
        assert_eq!(
            blake3::hash(text.as_bytes()).to_hex().as_str(),
            "629959b5b4fb2851a333e958ade6eea0e0dafcd1518ec346aab9f2788b1cd5e8"
        );
    }

    proptest! {
        #[test]
        fn an_altered_or_shortened_ticket_is_refused(at in 0usize..700, with in 0usize..64, cut in 1usize..700) {
            let text = ticket().to_string();
            let mut altered = text.clone().into_bytes();
            let at = at % altered.len();
            prop_assume!(altered[at] != ALPHABET[with]);
            altered[at] = ALPHABET[with];
            // The bits that pad the last character are no content.
            prop_assume!(at + 1 < altered.len());
            prop_assert!(String::from_utf8(altered).unwrap().parse::<Ticket>().is_err());
            prop_assert!(text[..text.len() - cut.min(text.len())].parse::<Ticket>().is_err());
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = text.parse::<Ticket>();
            let _ = format!("{PREFIX}{text}").parse::<Ticket>();
        }
    }
}
