use ipld_core::ipld::Ipld;

use super::*;
use crate::fixture::{Fleet, public, secret};
use crate::statement::{Operator, Pin, Removal};

mod joining;
mod order;

const ROOT: u8 = 1;
/// Enrol, assign and config.
const OPERATOR: u8 = 2;

fn removal(device: DeviceId) -> Body {
    Body::Removal(Removal { device, reason: "sold".to_owned() })
}

fn operator(number: u8, roles: &[Role]) -> Body {
    Body::Operator(Operator { key: public(&secret(number)), name: "ada".to_owned(), roles: roles.to_vec() })
}

fn assigned(device: DeviceId, attribute: &str, value: Option<&str>) -> Body {
    Body::Assigned(Assigned { device, attribute: attribute.to_owned(), value: value.map(str::to_owned) })
}

/// A statement of a kind that nobody knows yet.
fn unknown(fleet: &Fleet, key: u8) -> SignedStatement {
    let mut statement = removal(DeviceId([1; 32])).into_statement(Some(fleet.id), &[], 1_000);
    statement.kind = "fireworks".to_owned();
    statement.body = Ipld::String("anything".to_owned());
    statement.sign(&secret(key))
}

fn is_stored(judgement: &Judgement) -> bool {
    matches!(judgement, Judgement::Store(_))
}

/// Every kind with the keys that may sign it; all others wait, for their authority may still come.
#[test]
fn who_may_sign_what() {
    let mut fleet = Fleet::new();
    let roles = [Role::Enrol, Role::Assign, Role::Config, Role::Policy, Role::Release, Role::Witness, Role::Observer];
    for (number, role) in (10..).zip(roles) {
        fleet.operator(&secret(number), &[role]);
    }
    let (enrol, assign) = (10, 11);
    let device = DeviceId([5; 32]);
    let one_time = public(&secret(30));
    let statements: Vec<(Body, Vec<u8>)> = vec![
        (operator(40, &[Role::Enrol]), vec![ROOT]),
        (removal(device), vec![enrol]),
        (Body::Pin(Pin { invitation: one_time, admission: StatementId([6; 32]) }), vec![enrol]),
        (fleet_invitation(&fleet), vec![enrol]),
        (assigned(device, "zone", Some("yard")), vec![assign]),
    ];
    for (body, allowed) in statements {
        for number in [ROOT, 2, 10, 11, 12, 13, 14, 15, 16, 99] {
            let judgement = fleet.roster.judge(&fleet.say(body.clone(), &secret(number)));
            if allowed.contains(&number) {
                assert!(is_stored(&judgement), "{} by {number}: {judgement:?}", body.kind());
            } else {
                assert_eq!(judgement, Judgement::Pending(Missing::Authority), "{} by {number}", body.kind());
            }
        }
    }
    for number in 10..17 {
        assert!(is_stored(&fleet.roster.judge(&unknown(&fleet, number))), "an operator: {number}");
    }
    for number in [ROOT, 99] {
        assert_eq!(fleet.roster.judge(&unknown(&fleet, number)), Judgement::Pending(Missing::Authority));
    }
}

fn fleet_invitation(fleet: &Fleet) -> Body {
    Body::of(fleet.invitation(&secret(30)).statement()).unwrap()
}

/// Of several signatures only those count that lend authority.
#[test]
fn signatures_without_authority_are_dropped() {
    let fleet = Fleet::with_operator();
    let mut signed = fleet.say(removal(DeviceId([5; 32])), &secret(OPERATOR));
    signed.add_signature(&secret(99));
    let Judgement::Store(kept) = fleet.roster.judge(&signed) else { panic!("the operator may") };
    assert_eq!(kept.signatures().keys().copied().collect::<Vec<_>>(), [public(&secret(OPERATOR))]);
    let mut fleet = fleet;
    fleet.take(&signed);
    assert_eq!(fleet.roster.judge(&signed), Judgement::Known);
}

#[test]
fn other_fleets_and_other_geneses_are_refused() {
    let fleet = Fleet::with_operator();
    let foreign = removal(DeviceId([5; 32])).into_statement(Some(FleetId([9; 32])), &[], 1_000);
    assert_eq!(fleet.roster.judge(&foreign.sign(&secret(OPERATOR))), Judgement::Refused("of another fleet"));
    let root = RootKeys { keys: vec![public(&secret(ROOT))], threshold: 1 };
    let genesis = Body::Root(root).into_statement(None, &[], 9_999).sign(&secret(ROOT));
    assert_eq!(fleet.roster.judge(&genesis), Judgement::Refused("of another fleet"));
    let mut malformed = removal(DeviceId([5; 32])).into_statement(Some(fleet.id), &[], 1_000);
    malformed.subject = "another".to_owned();
    let judgement = fleet.roster.judge(&malformed.sign(&secret(OPERATOR)));
    assert_eq!(judgement, Judgement::Refused("the body does not fit its kind"));
}

#[test]
fn versions_cannot_be_fast_forwarded() {
    let mut fleet = Fleet::with_operator();
    let device = DeviceId([5; 32]);
    let say = |fleet: &Fleet, value: &str, replaces: &[(StatementId, u64)]| {
        assigned(device, "zone", Some(value)).into_statement(Some(fleet.id), replaces, 1_000)
    };
    let first = say(&fleet, "yard", &[]).sign(&secret(OPERATOR));
    let second = say(&fleet, "hall", &[(first.id(), 1)]).sign(&secret(OPERATOR));
    let judgement = fleet.roster.judge(&second);
    assert_eq!(judgement, Judgement::Pending(Missing::Replaced(first.id())));
    fleet.take(&first);
    for version in [0, 1, 3, 1 << 63, u64::MAX] {
        let mut forward = say(&fleet, "hall", &[(first.id(), 1)]);
        forward.version = version;
        let judgement = fleet.roster.judge(&forward.sign(&secret(OPERATOR)));
        assert_eq!(judgement, Judgement::Refused("its version is not 1 + the greatest that it replaces"), "{version}");
    }
    fleet.take(&second);
    let both = say(&fleet, "roof", &[(first.id(), 1), (second.id(), 2)]).sign(&secret(OPERATOR));
    assert_eq!(both.statement().version, 3);
    assert!(is_stored(&fleet.roster.judge(&both)));
    let elsewhere = assigned(device, "owner", Some("me")).into_statement(Some(fleet.id), &[(first.id(), 1)], 1_000);
    let judgement = fleet.roster.judge(&elsewhere.sign(&secret(OPERATOR)));
    assert_eq!(judgement, Judgement::Refused("it replaces a statement about something else"));
}

#[test]
fn a_root_of_three_needs_two() {
    let keys = [1, 2, 3].map(|number| public(&secret(number))).to_vec();
    let genesis = Body::Root(RootKeys { keys, threshold: 2 }).into_statement(None, &[], 1_000);
    let fleet_id = FleetId(genesis.id().0);
    let mut fleet = Fleet { id: fleet_id, roster: Roster::new(fleet_id) };
    let alone = genesis.clone().sign(&secret(1));
    fleet.take(&alone);
    assert!(!fleet.roster.entries()[&alone.id()].in_force);
    let by_one = fleet.say(operator(9, &[Role::Enrol]), &secret(1));
    assert_eq!(fleet.roster.judge(&by_one), Judgement::Pending(Missing::Authority));
    // The second signature comes by itself and is added to the first.
    fleet.take(&genesis.sign(&secret(3)));
    assert!(fleet.roster.entries()[&alone.id()].in_force);
    assert_eq!(fleet.roster.entries()[&alone.id()].signed.signatures().len(), 2);
    fleet.take(&by_one);
    assert!(fleet.roster.operators().is_empty(), "one of two is not enough");
    let by_another = fleet.say(operator(9, &[Role::Enrol]), &secret(2));
    fleet.take(&by_another);
    assert!(fleet.roster.has_role(&public(&secret(9)), Role::Enrol));
}

#[test]
fn a_new_root_needs_the_old_and_the_new_threshold() {
    let mut fleet = Fleet::new();
    let genesis = StatementId(fleet.id.0);
    let keys = [5, 6].map(|number| public(&secret(number))).to_vec();
    let root = Body::Root(RootKeys { keys, threshold: 2 }).into_statement(Some(fleet.id), &[(genesis, 1)], 1_000);
    let mut signed = root.sign(&secret(5));
    signed.add_signature(&secret(6));
    assert_eq!(fleet.roster.judge(&signed), Judgement::Pending(Missing::Authority), "nobody in force stands behind it");
    let by_new = fleet.say(operator(9, &[Role::Enrol]), &secret(5));
    assert_eq!(fleet.roster.judge(&by_new), Judgement::Pending(Missing::Authority), "the old root did not sign");
    signed.add_signature(&secret(ROOT));
    fleet.take(&signed);
    let mut by_new = by_new;
    by_new.add_signature(&secret(6));
    fleet.take(&by_new);
    assert!(fleet.roster.has_role(&public(&secret(9)), Role::Enrol));
}

#[test]
fn operators_keep_every_role_that_a_version_gave() {
    let mut fleet = Fleet::new();
    let first = fleet.say(operator(9, &[Role::Enrol]), &secret(ROOT));
    fleet.take(&first);
    let second = Operator { key: public(&secret(9)), name: "eve".to_owned(), roles: vec![Role::Config] };
    let second = Body::Operator(second).into_statement(Some(fleet.id), &[(first.id(), 1)], 1_000);
    fleet.take(&second.sign(&secret(ROOT)));
    let state = &fleet.roster.operators()[&public(&secret(9))];
    assert_eq!(state.roles, [Role::Enrol, Role::Config].into());
    assert_eq!(state.name, "eve");
}

#[test]
fn unknown_kinds_are_kept_without_effect() {
    let mut fleet = Fleet::with_operator();
    let device = fleet.device(&secret(20));
    let signed = unknown(&fleet, OPERATOR);
    fleet.take(&signed);
    assert_eq!(fleet.roster.entries()[&signed.id()].signed, signed);
    assert_eq!(fleet.roster.judge(&signed), Judgement::Known);
    assert_eq!(fleet.roster.standing(&device), Standing::Member);
}

#[test]
fn attributes_lie_over_the_invitation() {
    let mut fleet = Fleet::with_operator();
    let device = fleet.device(&secret(20));
    let read = |fleet: &Fleet, name: &str| fleet.roster.attributes(&device).get(name).cloned();
    let (zone, rack) = (read(&fleet, "zone").unwrap(), read(&fleet, "label/rack").unwrap());
    assert_eq!((zone.value.as_str(), zone.version, rack.value.as_str(), rack.version), ("yard", 0, "b", 0));
    assert_eq!(zone.author, Some(public(&secret(OPERATOR))));

    let say = |fleet: &Fleet, name: &str, value: Option<&str>, replaces: &[(StatementId, u64)]| {
        assigned(device, name, value).into_statement(Some(fleet.id), replaces, 1_000).sign(&secret(OPERATOR))
    };
    // Two at once: the lower id is read, the other is shown.
    let mut pair = [say(&fleet, "zone", Some("hall"), &[]), say(&fleet, "zone", Some("roof"), &[])];
    pair.iter().for_each(|signed| drop(fleet.take(signed)));
    pair.sort_by_key(SignedStatement::id);
    let value = |signed: &SignedStatement| match Body::of(signed.statement()) {
        Ok(Body::Assigned(assigned)) => assigned.value.unwrap(),
        other => panic!("{other:?}"),
    };
    let zone = read(&fleet, "zone").unwrap();
    assert_eq!((zone.value, zone.others, zone.version), (value(&pair[0]), vec![value(&pair[1])], 1));
    // A higher version of one of them is read before the other, whatever its id.
    let higher = say(&fleet, "zone", Some("dock"), &[(pair[1].id(), 1)]);
    fleet.take(&higher);
    let zone = read(&fleet, "zone").unwrap();
    assert_eq!((zone.value.as_str(), zone.others, zone.version), ("dock", vec![value(&pair[0])], 2));
    let settled = say(&fleet, "zone", Some("yard-2"), &[(higher.id(), 2), (pair[0].id(), 1)]);
    fleet.take(&settled);
    let zone = read(&fleet, "zone").unwrap();
    assert_eq!((zone.value.as_str(), zone.others.len(), zone.version), ("yard-2", 0, 3));
    // Labels can be taken away; a name and a zone stay those of the invitation.
    let nothing: Vec<SignedStatement> = ["label/rack", "name"].map(|name| say(&fleet, name, None, &[])).to_vec();
    nothing.iter().for_each(|signed| drop(fleet.take(signed)));
    let no_zone = say(&fleet, "zone", None, &[(settled.id(), 3)]);
    fleet.take(&no_zone);
    assert_eq!(read(&fleet, "label/rack"), None);
    assert_eq!(read(&fleet, "name").unwrap().value, "robot-7");
    assert_eq!((read(&fleet, "zone").unwrap().value.as_str(), read(&fleet, "zone").unwrap().version), ("yard", 0));
    assert!(fleet.roster.attributes(&DeviceId([8; 32])).is_empty());
}

#[test]
fn the_chain_of_a_device_convinces_who_knows_only_the_fleet() {
    let mut fleet = Fleet::with_operator();
    fleet.operator(&secret(3), &[Role::Config]);
    let device = fleet.device(&secret(20));
    fleet.device(&secret(21));
    let chain: Vec<SignedStatement> = fleet.roster.chain_of(&device).into_iter().cloned().collect();
    assert_eq!(chain.len(), 4, "the root, the operator who signed, the invitation, the admission");
    let mut stranger = Fleet { id: fleet.id, roster: Roster::new(fleet.id) };
    chain.iter().for_each(|signed| drop(stranger.take(signed)));
    assert_eq!(stranger.roster.standing(&device), Standing::Member);
    assert_eq!(stranger.roster.key_of(&device), Some(public(&secret(20))));
    assert!(fleet.roster.chain_of(&DeviceId([8; 32])).is_empty());
}
