use super::*;
use crate::cost::Cost;

fn peer(number: u8) -> PeerKey {
    PeerKey([number; 32])
}

/// Whom to dial.
fn dialled(dials: &mut Dials, now: Duration) -> Vec<PeerKey> {
    dials.due(now, &no_routes()).dial.iter().map(|dial| dial.peer).collect()
}

fn no_routes() -> Routes {
    Routes::new(peer(0))
}

fn moment(millis: u64) -> Duration {
    Duration::from_secs(1) + Duration::from_millis(millis)
}

fn dials_of(peers: &[u8]) -> Dials {
    let mut dials = Dials::new(peer(0), 1);
    let members = peers.iter().map(|number| (peer(*number), String::new())).collect();
    dials.members(moment(0), String::new(), members, &BTreeSet::new(), &BTreeSet::new());
    dials
}

/// How long a peer waits that cannot be dialled now, milliseconds.
fn wait(dials: &mut Dials, now: Duration) -> u128 {
    assert_eq!(dialled(dials, now), []);
    dials.poll_timeout().map_or(0, |at| (at - now).as_millis())
}

#[test]
fn members_are_dialled_with_backoff_once_it_is_known_where_they_are() {
    let mut dials = dials_of(&[1, 2]);
    let mut now = moment(0);
    assert_eq!(
        (dials.due(now, &no_routes()), dials.poll_timeout()),
        (Due::default(), None),
        "nobody knows where they are"
    );
    dials.located(now, peer(1), true);
    let mut waits = Vec::new();
    for _ in 0..12 {
        now = now.max(dials.poll_timeout().expect("a peer that is down is tried for ever"));
        assert_eq!(dialled(&mut dials, now), [peer(1)]);
        assert_eq!(dialled(&mut dials, now), [], "one dial at a time");
        dials.failed(now, peer(1));
        waits.push(wait(&mut dials, now));
    }
    assert!(waits[0] < 301 && (7_500..=22_500).contains(&waits[11]), "{waits:?}");
    dials.up(now, peer(1));
    assert_eq!((wait(&mut dials, now), dials.poll_timeout()), (0, None));
    dials.down(now, peer(1));
    assert!((1..=300).contains(&wait(&mut dials, now)));
}

#[test]
fn who_is_reached_otherwise_is_dialled_rarely_until_that_changes() {
    let mut dials = dials_of(&[1]);
    let now = moment(0);
    dials.located(now, peer(1), true);
    let fail = |dials: &mut Dials| (0..20).for_each(|_| dials.failed(now, peer(1)));
    dials.reach_changed(now, peer(1), true);
    fail(&mut dials);
    assert!((120_000..=360_000).contains(&wait(&mut dials, now)), "others lead there");
    dials.reach_changed(now, peer(1), true);
    assert!(wait(&mut dials, now) >= 120_000, "nothing changed");
    dials.reach_changed(now, peer(1), false);
    assert!(wait(&mut dials, now) <= 300, "nobody leads there any more");
    fail(&mut dials);
    dials.located(now, peer(1), false);
    assert!(wait(&mut dials, now) > 300, "it is said again");
    dials.located(now, peer(1), true);
    assert!(wait(&mut dials, now) <= 300, "a new address");
}

#[test]
fn of_many_members_some_are_dialled_and_a_link_too_many_is_closed() {
    let all: Vec<u8> = (1..=40).collect();
    let mut dials = dials_of(&all);
    let now = moment(0);
    all.iter().for_each(|number| dials.located(now, peer(*number), true));
    let dialled = dialled(&mut dials, now);
    // And one to whom no way leads.
    assert!((6..=7).contains(&dialled.len()), "{}", dialled.len());
    assert_eq!(dials.due(now, &no_routes()), Due::default());
    all.iter().take(20).for_each(|number| {
        dials.up(now, peer(*number));
        dials.measured(peer(*number), 1_000 * u64::from(*number));
    });
    let mut routes = no_routes();
    let links: Vec<_> = all.iter().take(20).map(|number| (peer(*number), Cost::from_micros(1_000))).collect();
    routes.report(peer(0), &links);
    for (key, _) in &links {
        let others: Vec<_> = links.iter().filter(|(other, _)| other != key).copied().collect();
        routes.report(*key, &others);
    }
    routes.update();
    let closed = dials.due(moment(20_000), &routes).close;
    assert_eq!(closed.len(), 1, "{closed:?}");
}

#[test]
fn strangers_leave_no_trace_and_are_linked_once_they_are_members() {
    let mut dials = Dials::new(peer(0), 1);
    assert!(!dials.up(moment(1), peer(1)) && !dials.down(moment(2), peer(2)) && !dials.seen(moment(2), peer(3)));
    assert!(dials.peers.is_empty());
    let members = || [1, 2].map(|number| (peer(number), String::new())).into();
    let sessions = BTreeSet::from([peer(1)]);
    assert!(dials.members(moment(3), String::new(), members(), &BTreeSet::new(), &sessions));
    assert!(dials.peers[&peer(1)].is_up && !dials.peers[&peer(2)].is_up);
    assert!(!dials.members(moment(4), String::new(), members(), &BTreeSet::new(), &sessions), "it is known already");
    dials.located(moment(4), peer(9), true);
    assert_eq!(dialled(&mut dials, moment(4)), [peer(9)], "a stranger with an address is a ticket's");
}
