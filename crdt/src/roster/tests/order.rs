//! What is in force is a function of the set: any order of arrival, with every pending statement tried again, gives
//! the same reading.

use super::*;
use crate::fixture::Rng;
use crate::root::{Item, Tree};
use crate::statement::{SignatureBytes, StatementParts};

/// One statement of each signature, as they come where signers are apart.
fn apart(signed: &SignedStatement) -> Vec<SignedStatement> {
    let parts = signed.parts();
    let one = |signature: &(Key, SignatureBytes)| {
        let parts = StatementParts { signatures: vec![*signature], ..parts.clone() };
        SignedStatement::from_parts(parts).unwrap()
    };
    parts.signatures.iter().map(one).collect()
}

fn roots(fleet: FleetId, genesis: StatementId) -> Vec<SignedStatement> {
    let root = |keys: &[u8], threshold: usize, replaces: (StatementId, u64)| {
        let keys = keys.iter().map(|number| public(&secret(*number))).collect();
        Body::Root(RootKeys { keys, threshold }).into_statement(Some(fleet), &[replaces], 1_000)
    };
    let mut second = root(&[2, 5], 1, (genesis, 1)).sign(&secret(1));
    second.add_signature(&secret(2));
    let mut third = root(&[6, 7], 2, (second.id(), 2)).sign(&secret(5));
    third.add_signature(&secret(6));
    third.add_signature(&secret(7));
    vec![second, third]
}

/// A fleet's statements: a root of 2 of 3 that is rotated twice, operators of each root, devices, pins, attributes.
fn statements() -> (FleetId, Vec<SignedStatement>) {
    let keys = [1, 2, 3].map(|number| public(&secret(number))).to_vec();
    let genesis = Body::Root(RootKeys { keys, threshold: 2 }).into_statement(None, &[], 1_000);
    let id = FleetId(genesis.id().0);
    let fleet = Fleet { id, roster: Roster::new(id) };
    let mut genesis = genesis.sign(&secret(1));
    genesis.add_signature(&secret(2));
    let mut all = vec![genesis.clone()];
    all.extend(roots(id, genesis.id()));
    // By a key of the first two roots: enough for the second one only.
    all.push(fleet.say(operator(OPERATOR, &[Role::Enrol, Role::Assign]), &secret(2)));
    let mut config = fleet.say(operator(12, &[Role::Config]), &secret(6));
    config.add_signature(&secret(7));
    let mut later = operator(12, &[Role::Stop]).into_statement(Some(id), &[(config.id(), 1)], 2_000).sign(&secret(6));
    later.add_signature(&secret(7));
    all.extend([config, later]);
    all.extend([30, 31].map(|number| fleet.invitation(&secret(number))));
    let admissions = [(30, 20), (30, 21), (31, 22), (31, 23)]
        .map(|(one_time, device)| fleet.admission(&secret(one_time), &secret(device)));
    all.push(fleet.say(Body::Pin(Pin { invitation: public(&secret(30)), admission: admissions[1].id() }), &secret(2)));
    all.extend(admissions);
    let device = public(&secret(21)).device();
    all.push(fleet.say(removal(public(&secret(23)).device()), &secret(OPERATOR)));
    let zone = fleet.say(assigned(device, "zone", Some("hall")), &secret(OPERATOR));
    let next = assigned(device, "zone", Some("roof")).into_statement(Some(id), &[(zone.id(), 1)], 1_000);
    all.extend([zone, next.sign(&secret(OPERATOR))]);
    all.push(fleet.say(assigned(device, "zone", Some("dock")), &secret(OPERATOR)));
    all.push(fleet.say(assigned(device, "label/rack", None), &secret(OPERATOR)));
    all.push(unknown(&fleet, 12));
    (id, all)
}

/// Everything that is read of a roster.
fn reading(roster: &Roster) -> String {
    let mut tree = Tree::default();
    for entry in roster.entries().values() {
        for (signer, signature) in entry.signed.signatures() {
            tree.set(Item::Statement(entry.signed.id(), *signer), signature);
        }
    }
    let mut lines = vec![format!("{:?} {}", tree.root(), tree.len()), format!("{:?}", roster.operators())];
    for (id, entry) in roster.entries() {
        lines.push(format!("{id:?} {} {}", entry.signed.statement().kind, entry.in_force));
    }
    for number in 20..25 {
        let device = public(&secret(number)).device();
        assert_eq!(roster.standing(&device), roster.derive_standing(&device), "what is kept is what follows");
        lines.push(format!("{number} {:?} {:?}", roster.standing(&device), roster.attributes(&device)));
        lines.push(format!("{:?}", roster.chain_of(&device).iter().map(|signed| signed.id()).collect::<Vec<_>>()));
    }
    lines.join("\n")
}

/// Offers statements until nothing new is stored, in this order each time. All of them are offered again: a
/// signature that had no authority at first comes again with the comparison of roots.
fn settle(fleet: FleetId, statements: &[SignedStatement]) -> Roster {
    let mut roster = Roster::new(fleet);
    loop {
        let mut stored = 0;
        for signed in statements {
            match roster.judge(signed) {
                Judgement::Store(signed) => {
                    stored += 1;
                    roster.insert(*signed);
                }
                Judgement::Known | Judgement::Pending(_) => {}
                other @ Judgement::Refused(_) => panic!("{other:?}: {:?}", signed.statement()),
            }
        }
        if stored == 0 {
            return roster;
        }
    }
}

#[test]
fn any_order_gives_the_same_reading() {
    let (fleet, all) = statements();
    let straight = settle(fleet, &all);
    let expected = reading(&straight);
    assert_eq!(straight.entries().len(), all.len());
    let idle: Vec<_> = straight.entries().values().filter(|entry| !entry.in_force).collect();
    assert!(idle.is_empty(), "everything is in force: {idle:?}");
    let standing = |number: u8| straight.standing(&public(&secret(number)).device());
    let standings = [20, 21, 22, 23, 24].map(standing);
    use Standing::{Contested, Member, Removed, Unknown};
    assert_eq!(standings, [Contested, Member, Contested, Removed, Unknown]);
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let mut order = if rng.chance(50) { all.clone() } else { all.iter().flat_map(apart).collect() };
        rng.shuffle(&mut order);
        assert_eq!(reading(&settle(fleet, &order)), expected, "seed {seed}");
    }
}

/// A set that was stored is read the same when it is opened again, in the order of its ids.
#[test]
fn a_stored_set_opens_again() {
    let (fleet, all) = statements();
    let roster = settle(fleet, &all);
    let stored: Vec<SignedStatement> = roster.entries().values().map(|entry| entry.signed.clone()).collect();
    assert_eq!(reading(&settle(fleet, &stored)), reading(&roster));
}
