//! `/fleetsync/join/1`: how a device becomes a member, in two exchanges of one request and one answer each.
//!
//! 1. The joiner names the fleet and its invitation; the member answers with the statements that the invitation
//!    rests on, which the joiner checks against the fleet id of its ticket.
//! 2. The joiner sends its admission, signed with the one-time key and with its own; the member publishes it.
//!
//! Who has no ticket asks first ([`JoinRequest::Ask`]), and again until an operator has approved.
//!
//! No daemon holds an enrolment key; every member can verify the admission offline. Format byte, then postcard.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::{DeviceId, FleetId, Key};
use crate::roster::{Judgement, Roster, Standing};
use crate::statement::{Body, SignedStatement, StatementParts};

/// Largest request or answer, bytes.
pub const JOIN_BYTES_MAX: usize = 8 * 1024;
const JOIN_FORMAT: u8 = 1;

/// What a joiner asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinRequest {
    /// The statements that an invitation rests on.
    Chain {
        /// The fleet of the ticket.
        fleet: FleetId,
        /// The invitation's one-time key.
        invitation: Key,
    },
    /// To be admitted; the ticket's invitation comes along, in case this member has not seen it yet.
    Admit {
        /// The ticket's invitation.
        invitation: StatementParts,
        /// The admission.
        admission: StatementParts,
    },
    /// To be invited, without a ticket: the member keeps the wish until an operator approves it.
    Ask {
        /// The fleet that the joiner means.
        fleet: FleetId,
        /// A one-time key that the joiner made; an invitation for it is the approval.
        one_time: Key,
        /// The name that the joiner wishes.
        name: String,
    },
}

/// What a member answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// Roots and operators, in an order in which each can be judged.
    Chain(Vec<StatementParts>),
    /// The admission is stored and on its way to everyone.
    Welcome,
    /// No.
    Refused(JoinRefusal),
    /// The wish to join waits for an operator.
    Waits,
    /// An operator approved: the invitation, after the statements that it rests on.
    Invited(Vec<StatementParts>),
}

/// Why a member does not admit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// The ticket is for another fleet.
    #[error("this node belongs to another fleet than the ticket")]
    Fleet,
    /// The invitation's time is over.
    #[error("the ticket has expired")]
    Expired,
    /// Another device was admitted by this ticket.
    #[error("the ticket was used already, by device {0}")]
    Used(DeviceId),
    /// The device was removed.
    #[error("this device was removed from the fleet")]
    Removed,
    /// A statement does not verify, or the invitation is not certified in this fleet.
    #[error("the ticket is not valid in this fleet: {0}")]
    Invalid(String),
    /// The node cannot write now.
    #[error("this node cannot take joins now: {0}")]
    Busy(String),
}

/// Format byte, then postcard.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_extend(message, vec![JOIN_FORMAT]).expect("plain data always encodes")
}

/// Reads what [`encode`] wrote; `None` where it is malformed or too large.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match bytes.split_first() {
        Some((&JOIN_FORMAT, rest)) if bytes.len() <= JOIN_BYTES_MAX => match postcard::take_from_bytes(rest) {
            Ok((message, [])) => Some(message),
            _ => None,
        },
        _ => None,
    }
}

/// The roots and operators that a joiner needs to judge an invitation.
pub fn chain(roster: &Roster) -> Vec<StatementParts> {
    let of_kind = |kind: &'static str| {
        let mut entries: Vec<_> =
            roster.entries().values().filter(|entry| entry.in_force && entry.body.kind() == kind).collect();
        entries.sort_by_key(|entry| (entry.signed.statement().version, entry.signed.id()));
        entries
    };
    of_kind("root").into_iter().chain(of_kind("operator")).map(|entry| entry.signed.parts()).collect()
}

/// Judges a request to be admitted. `Ok` names the statements to be stored, in order.
///
/// Expiry is judged here and nowhere else; `now_ms` is this member's wall clock, milliseconds since 1970.
pub fn judge_admission(
    roster: &Roster,
    invitation: StatementParts,
    admission: StatementParts,
    now_ms: u64,
) -> Result<Vec<SignedStatement>, JoinRefusal> {
    let invalid = |error: &dyn std::fmt::Display| JoinRefusal::Invalid(error.to_string());
    let invitation = SignedStatement::from_parts(invitation).map_err(|error| invalid(&error))?;
    let admission = SignedStatement::from_parts(admission).map_err(|error| invalid(&error))?;
    if invitation.statement().fleet != Some(roster.fleet()) {
        return Err(JoinRefusal::Fleet);
    }
    let Ok(Body::Invitation(invited)) = Body::of(invitation.statement()) else {
        return Err(JoinRefusal::Invalid("no invitation".to_owned()));
    };
    let Ok(Body::Admission(admitted)) = Body::of(admission.statement()) else {
        return Err(JoinRefusal::Invalid("no admission".to_owned()));
    };
    if admitted.invitation != invited.key {
        return Err(JoinRefusal::Invalid("the admission names another invitation".to_owned()));
    }
    let device = admitted.device.device();
    if roster.standing(&device) == Standing::Removed {
        return Err(JoinRefusal::Removed);
    }
    let mut trial = roster.clone();
    let mut stored = Vec::new();
    for signed in [invitation, admission] {
        match trial.judge(&signed) {
            Judgement::Store(signed) => {
                trial.insert((*signed).clone());
                stored.push(*signed);
            }
            Judgement::Known => {}
            Judgement::Pending(_) => {
                return Err(JoinRefusal::Invalid("no operator of this fleet certified it".to_owned()));
            }
            Judgement::Refused(reason) => return Err(invalid(&reason)),
        }
    }
    let other = trial
        .admissions_by(&invited.key)
        .iter()
        .filter_map(|id| match trial.entries().get(id).map(|entry| &entry.body) {
            Some(Body::Admission(other)) => Some(other.device.device()),
            _ => None,
        })
        .find(|other| *other != device);
    match other {
        Some(other) => Err(JoinRefusal::Used(other)),
        None if roster.standing(&device) == Standing::Member => Ok(stored),
        None if now_ms > invited.not_after_ms => Err(JoinRefusal::Expired),
        None if trial.standing(&device) == Standing::Member => Ok(stored),
        None => Err(JoinRefusal::Invalid("the admission lacks a signature".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::hex;
    use crate::statement::SignatureBytes;

    fn parts(byte: u8) -> StatementParts {
        StatementParts { bytes: vec![byte; 3], signatures: vec![(Key([byte; 32]), SignatureBytes([byte; 64]))] }
    }

    fn lines() -> String {
        let (fleet, key) = (FleetId([1; 32]), Key([2; 32]));
        let name = "newbie".to_owned();
        let requests = [
            JoinRequest::Chain { fleet, invitation: key },
            JoinRequest::Admit { invitation: parts(3), admission: parts(4) },
            JoinRequest::Ask { fleet, one_time: key, name },
        ];
        let refusals = [
            JoinRefusal::Fleet,
            JoinRefusal::Expired,
            JoinRefusal::Used(DeviceId([5; 32])),
            JoinRefusal::Removed,
            JoinRefusal::Invalid("why".to_owned()),
            JoinRefusal::Busy("why".to_owned()),
        ];
        let mut answers = vec![JoinAnswer::Chain(vec![parts(6)]), JoinAnswer::Welcome];
        answers.extend(refusals.map(JoinAnswer::Refused));
        answers.extend([JoinAnswer::Waits, JoinAnswer::Invited(vec![parts(7)])]);
        let requests = requests.iter().map(|message| hex(&encode(message)));
        requests.chain(answers.iter().map(|message| hex(&encode(message)))).map(|line| line + "\n").collect()
    }

    /// Golden: a joiner may be newer or older than the member that it asks. Long runs of one byte are shown by a hash.
    #[test]
    fn golden_messages() {
        let shown: String = lines()
            .lines()
            .map(|line| match line.len() {
                0..=80 => format!("{line}\n"),
                _ => format!("{}… {}\n", &line[..20], &blake3::hash(line.as_bytes()).to_hex()[..16]),
            })
            .collect();
        assert_eq!(shown, GOLDEN);
    }

    const GOLDEN: &str = "\
01000101010101010101… 7e21d1e8c9ba8fc6
01010303030301030303… 5b7c361f8065d601
01020101010101010101… 80cd9c88b8aab4ab
01000103060606010606… a79d5e11ba529aa6
0101
010200
010201
0102020505050505050505050505050505050505050505050505050505050505050505
010203
01020403776879
01020503776879
0103
01040103070707010707… c731ac7ba2679042
";
}
