//! Admissions, pins and removals, and the member that takes a join.

use super::*;
use crate::join::{JoinAnswer, JoinRefusal, JoinRequest, chain, decode, encode, judge_admission};
use crate::statement::StatementParts;

fn pin(fleet: &Fleet, admission: &SignedStatement) -> SignedStatement {
    fleet.say(Body::Pin(Pin { invitation: public(&secret(30)), admission: admission.id() }), &secret(OPERATOR))
}

/// A fleet with the invitation of `secret(30)`, and two devices' admissions by it.
fn contested() -> (Fleet, [SignedStatement; 2], [DeviceId; 2]) {
    let mut fleet = Fleet::with_operator();
    let invitation = fleet.invitation(&secret(30));
    fleet.take(&invitation);
    let admissions = [20, 21].map(|number| fleet.admission(&secret(30), &secret(number)));
    let devices = [20, 21].map(|number| public(&secret(number)).device());
    (fleet, admissions, devices)
}

fn standings(fleet: &Fleet, devices: &[DeviceId]) -> Vec<Standing> {
    devices.iter().map(|device| fleet.roster.standing(device)).collect()
}

#[test]
fn two_admissions_by_one_key_wait_for_a_pin() {
    let (mut fleet, admissions, devices) = contested();
    assert_eq!(standings(&fleet, &devices), [Standing::Unknown, Standing::Unknown]);
    assert_eq!(fleet.take(&admissions[0]), [devices[0]]);
    assert_eq!(standings(&fleet, &devices), [Standing::Member, Standing::Unknown]);
    assert_eq!(fleet.take(&admissions[1]), devices, "both may stand otherwise now");
    assert_eq!(standings(&fleet, &devices), [Standing::Contested, Standing::Contested]);
    let pinned = pin(&fleet, &admissions[1]);
    assert_eq!(fleet.take(&pinned), devices);
    assert_eq!(standings(&fleet, &devices), [Standing::Contested, Standing::Member]);
    let gone = fleet.say(removal(devices[1]), &secret(OPERATOR));
    assert_eq!(fleet.take(&gone), [devices[1]]);
    assert_eq!(standings(&fleet, &devices), [Standing::Contested, Standing::Removed]);
    // Removal is final: neither a pin nor another admission brings the device back.
    let invitation = fleet.invitation(&secret(31));
    fleet.take(&invitation);
    let again = fleet.admission(&secret(31), &secret(21));
    fleet.take(&again);
    assert_eq!(fleet.roster.standing(&devices[1]), Standing::Removed);
}

#[test]
fn a_pin_that_comes_first_settles_what_comes_later() {
    let (mut fleet, admissions, devices) = contested();
    let pinned = pin(&fleet, &admissions[0]);
    fleet.take(&pinned);
    fleet.take(&admissions[1]);
    assert_eq!(standings(&fleet, &devices), [Standing::Unknown, Standing::Contested]);
    fleet.take(&admissions[0]);
    assert_eq!(standings(&fleet, &devices), [Standing::Member, Standing::Contested]);
}

#[test]
fn an_admission_needs_both_keys_and_an_invitation() {
    let (mut fleet, admissions, devices) = contested();
    let parts = admissions[0].parts();
    for signature in &parts.signatures {
        let mut fleet = Fleet { id: fleet.id, roster: fleet.roster.clone() };
        let half = StatementParts { signatures: vec![*signature], ..parts.clone() };
        let half = SignedStatement::from_parts(half).unwrap();
        match signature.0 == public(&secret(30)) {
            true => drop(fleet.take(&half)),
            // Without the one-time key's anyone could fill the set.
            false => assert_eq!(fleet.roster.judge(&half), Judgement::Pending(Missing::Authority)),
        }
        assert_eq!(fleet.roster.standing(&devices[0]), Standing::Unknown, "one signature of two");
        fleet.take(&admissions[0]);
        assert_eq!(fleet.roster.standing(&devices[0]), Standing::Member);
    }
    let uninvited = fleet.admission(&secret(31), &secret(20));
    assert_eq!(fleet.roster.judge(&uninvited), Judgement::Pending(Missing::Authority));
    fleet.take(&admissions[0]);
    assert_eq!(fleet.roster.admissions_by(&public(&secret(30))), [admissions[0].id()]);
}

/// A joiner whose answer was lost signs its admission once more.
#[test]
fn a_device_does_not_contest_itself() {
    let (mut fleet, admissions, devices) = contested();
    fleet.take(&admissions[0]);
    let body = Body::of(admissions[0].statement()).unwrap();
    let mut later = body.into_statement(Some(fleet.id), &[], 5_000).sign(&secret(30));
    later.add_signature(&secret(20));
    assert_ne!(later.id(), admissions[0].id());
    fleet.take(&later);
    assert_eq!(fleet.roster.standing(&devices[0]), Standing::Member);
    fleet.take(&admissions[1]);
    assert_eq!(standings(&fleet, &devices), [Standing::Contested, Standing::Contested]);
}

#[test]
fn joining_in_two_exchanges() {
    let (fleet, admissions, devices) = contested();
    // The joiner judges the chain, knowing only the fleet.
    let answer: JoinAnswer = decode(&encode(&JoinAnswer::Chain(chain(&fleet.roster)))).unwrap();
    let JoinAnswer::Chain(statements) = answer else { panic!("a chain") };
    let mut joiner = Fleet { id: fleet.id, roster: Roster::new(fleet.id) };
    for parts in statements {
        joiner.take(&SignedStatement::from_parts(parts).unwrap());
    }
    let invitation = fleet.invitation(&secret(30));
    assert!(is_stored(&joiner.roster.judge(&invitation)));
    // The member has not seen the invitation yet: it comes with the request.
    let mut member = joiner;
    let stored = judge_admission(&member.roster, invitation.parts(), admissions[0].parts(), 2_000).unwrap();
    assert_eq!(stored, [invitation.clone(), admissions[0].clone()]);
    stored.iter().for_each(|signed| drop(member.take(signed)));
    assert_eq!(member.roster.standing(&devices[0]), Standing::Member);
    // The same once more, also after the ticket has expired, changes nothing.
    assert_eq!(judge_admission(&member.roster, invitation.parts(), admissions[0].parts(), 9_000), Ok(vec![]));
    let used = judge_admission(&member.roster, invitation.parts(), admissions[1].parts(), 2_000);
    assert_eq!(used, Err(JoinRefusal::Used(devices[0])));
    let gone = member.say(removal(devices[0]), &secret(OPERATOR));
    member.take(&gone);
    let removed = judge_admission(&member.roster, invitation.parts(), admissions[0].parts(), 2_000);
    assert_eq!(removed, Err(JoinRefusal::Removed));
}

#[test]
fn joins_that_are_refused() {
    let (fleet, admissions, _) = contested();
    let invitation = fleet.invitation(&secret(30));
    let judge = |invitation: &SignedStatement, admission: StatementParts| {
        judge_admission(&fleet.roster, invitation.parts(), admission, 2_000)
    };
    let late = judge_admission(&fleet.roster, invitation.parts(), admissions[0].parts(), 2_001);
    assert_eq!(late, Err(JoinRefusal::Expired));
    let is_invalid = |answer| matches!(answer, Err(JoinRefusal::Invalid(_)));
    let mut altered = admissions[0].parts();
    altered.bytes[20] ^= 1;
    assert!(is_invalid(judge(&invitation, altered)));
    let mut half = admissions[0].parts();
    half.signatures.pop();
    assert!(is_invalid(judge(&invitation, half)), "a signature is missing");
    assert!(is_invalid(judge(&fleet.invitation(&secret(31)), admissions[0].parts())), "another invitation");
    assert!(is_invalid(judge(&admissions[0], admissions[0].parts())));
    assert!(is_invalid(judge(&invitation, invitation.parts())));
    // Certified by nobody of this fleet, or of another fleet.
    let forged = fleet.say(Body::of(invitation.statement()).unwrap(), &secret(99));
    let stranger = Fleet { id: fleet.id, roster: Roster::new(fleet.id) };
    assert!(is_invalid(judge_admission(&stranger.roster, forged.parts(), admissions[0].parts(), 2_000)));
    let other = Fleet { id: FleetId([9; 32]), roster: Roster::new(FleetId([9; 32])) };
    let foreign = judge_admission(&other.roster, invitation.parts(), admissions[0].parts(), 2_000);
    assert_eq!(foreign, Err(JoinRefusal::Fleet));
}

#[test]
fn join_messages_have_a_format_and_a_limit() {
    let ask = JoinRequest::Chain { fleet: FleetId([1; 32]), invitation: public(&secret(30)) };
    let bytes = encode(&ask);
    assert_eq!(decode::<JoinRequest>(&bytes), Some(ask));
    assert_eq!(decode::<JoinRequest>(&[&bytes[..], &[0]].concat()), None);
    assert_eq!(decode::<JoinRequest>(&[&[2], &bytes[1..]].concat()), None);
    (0..bytes.len()).for_each(|cut| assert_eq!(decode::<JoinRequest>(&bytes[..cut]), None));
    let large = encode(&JoinAnswer::Refused(JoinRefusal::Busy("x".repeat(8 * 1024))));
    assert_eq!(decode::<JoinAnswer>(&large), None);
}
