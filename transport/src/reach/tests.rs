//! What proves that others reach a node, and whom it asks otherwise.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const OWN: &str = "/ip4/192.168.7.2/udp/4410/quic-v1";
const OUTSIDE: &str = "/ip4/192.0.2.7/udp/61000/quic-v1";

fn peer(number: u8) -> PeerKey {
    PeerKey([number; 32])
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn effects(reach: &mut Reach) -> Vec<Effect> {
    std::iter::from_fn(|| reach.poll_effect()).collect()
}

fn listening() -> Reach {
    let mut reach = Reach::default();
    reach.listening(at(0), OWN);
    reach
}

#[test]
fn who_was_dialled_is_reached_and_who_dials_asks_autonat() {
    let mut reach = listening();
    reach.relays(at(1), peer(1), true);
    reach.seen(at(1), peer(1), OWN, false);
    assert!(effects(&mut reach).is_empty(), "the answers came in: that says nothing of others");
    reach.tested(at(2), OWN, true);
    assert_eq!(effects(&mut reach), [Effect::Confirm(OWN.to_owned())]);

    let mut reach = listening();
    reach.seen(at(1), peer(1), OWN, true);
    assert_eq!(effects(&mut reach), [Effect::Confirm(OWN.to_owned())]);
    reach.not_listening(at(2), OWN);
    reach.gone(at(2), peer(1));
    assert_eq!(effects(&mut reach), [Effect::Withdraw(OWN.to_owned())]);
}

#[test]
fn one_peer_alone_cannot_have_others_dial_an_address() {
    let mut reach = listening();
    reach.relays(at(1), peer(1), true);
    reach.seen(at(1), peer(1), OUTSIDE, true);
    assert!(effects(&mut reach).is_empty(), "nor does it have to relay: it gets through");
    reach.seen(at(2), peer(2), OUTSIDE, true);
    assert_eq!(effects(&mut reach), [Effect::Confirm(OUTSIDE.to_owned())]);
    reach.gone(at(3), peer(1));
    assert_eq!(effects(&mut reach), [Effect::Withdraw(OUTSIDE.to_owned())]);
}

/// Holes let others in, and they dial what they were told: that does not mean that anybody could.
#[test]
fn who_dials_through_a_translator_is_not_reached_by_those_it_talks_to() {
    let mut reach = listening();
    reach.relays(at(1), peer(1), true);
    reach.seen(at(1), peer(1), OUTSIDE, false);
    assert_eq!(effects(&mut reach), [Effect::Reserve(peer(1))]);
    reach.seen(at(2), peer(2), OUTSIDE, true);
    reach.seen(at(2), peer(3), OUTSIDE, true);
    assert!(effects(&mut reach).is_empty());
    reach.tested(at(3), OUTSIDE, true);
    assert_eq!(effects(&mut reach), [Effect::Confirm(OUTSIDE.to_owned()), Effect::Release(peer(1))]);
}

#[test]
fn behind_a_translator_whoever_is_beyond_it_is_asked_to_relay() {
    let mut reach = listening();
    reach.seen(at(1), peer(1), OWN, false);
    reach.relays(at(1), peer(1), true);
    reach.seen(at(1), peer(2), OUTSIDE, false);
    assert!(effects(&mut reach).is_empty(), "the one does not need to, the other does not relay");
    for number in 2..6 {
        reach.relays(at(2), peer(number), true);
        reach.seen(at(2), peer(number), OUTSIDE, false);
    }
    assert_eq!(effects(&mut reach), [Effect::Reserve(peer(2)), Effect::Reserve(peer(3))]);
    reach.reserved(peer(2));
    assert!(reach.held().eq([peer(2)]));
    reach.gone(at(3), peer(2));
    assert_eq!(reach.held().count(), 0);
    assert_eq!(effects(&mut reach), [Effect::Release(peer(2)), Effect::Reserve(peer(4))]);
    // The translator was told to let everybody in.
    reach.tested(at(4), OUTSIDE, true);
    let done = effects(&mut reach);
    assert_eq!(done[0], Effect::Confirm(OUTSIDE.to_owned()));
    assert_eq!(done[1..], [Effect::Release(peer(3)), Effect::Release(peer(4))]);
    assert!(reach.confirmed().eq([OUTSIDE]));
}

#[test]
fn behind_a_firewall_that_translates_nothing_relays_are_asked_once_autonat_has_failed() {
    let mut reach = listening();
    reach.relays(at(1), peer(1), true);
    reach.seen(at(1), peer(1), OWN, false);
    reach.tested(at(6), OWN, false);
    assert_eq!(effects(&mut reach), [Effect::Reserve(peer(1))]);
}

#[test]
fn a_relay_that_refuses_is_asked_again_later_and_others_before_it() {
    let mut reach = listening();
    for number in 1..4 {
        reach.relays(at(0), peer(number), true);
        reach.seen(at(0), peer(number), OUTSIDE, false);
    }
    assert_eq!(effects(&mut reach), [Effect::Reserve(peer(1)), Effect::Reserve(peer(2))]);
    reach.unreserved(at(1), peer(1));
    assert_eq!(effects(&mut reach), [Effect::Reserve(peer(3))]);
    reach.unreserved(at(2), peer(2));
    let after = |times: u32| BACKOFF * times;
    reach.handle_timeout(after(1));
    assert!(effects(&mut reach).is_empty());
    reach.handle_timeout(at(1) + after(1));
    assert_eq!(effects(&mut reach), [Effect::Reserve(peer(1))]);
    reach.unreserved(at(1) + after(1), peer(1));
    reach.handle_timeout(at(2) + after(1));
    assert_eq!(effects(&mut reach), [Effect::Reserve(peer(2))]);
    reach.unreserved(at(2) + after(1), peer(2));
    reach.handle_timeout(after(3));
    assert!(effects(&mut reach).is_empty(), "twice as long");
    reach.handle_timeout(at(1) + after(3));
    assert_eq!(effects(&mut reach), [Effect::Reserve(peer(1))]);
}

#[derive(Debug, Clone)]
enum Step {
    Listening(bool),
    Seen(u8, bool, bool),
    Relays(u8, bool),
    Gone(u8),
    Tested(bool, bool),
    Reserved(u8, bool),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let number = 1u8..6;
    prop_oneof![
        any::<bool>().prop_map(Step::Listening),
        (number.clone(), any::<bool>(), any::<bool>()).prop_map(|(peer, own, dialled)| Step::Seen(peer, own, dialled)),
        (number.clone(), any::<bool>()).prop_map(|(peer, relays)| Step::Relays(peer, relays)),
        number.clone().prop_map(Step::Gone),
        (any::<bool>(), any::<bool>()).prop_map(|(own, ok)| Step::Tested(own, ok)),
        (number, any::<bool>()).prop_map(|(peer, ok)| Step::Reserved(peer, ok)),
        Just(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn effects_alternate_and_no_more_relays_are_held_than_needed(steps in proptest::collection::vec(step(), 0..60)) {
        let mut reach = Reach::default();
        let (mut held, mut confirmed) = (BTreeSet::new(), BTreeSet::new());
        for (now, step) in steps.into_iter().enumerate() {
            let now = at(now as u64 * 5);
            let address = |own: bool| if own { OWN } else { OUTSIDE };
            match step {
                Step::Listening(true) => reach.listening(now, OWN),
                Step::Listening(false) => reach.not_listening(now, OWN),
                Step::Seen(number, own, dialled) => reach.seen(now, peer(number), address(own), dialled),
                Step::Relays(number, relays) => reach.relays(now, peer(number), relays),
                Step::Gone(number) => reach.gone(now, peer(number)),
                Step::Tested(own, ok) => reach.tested(now, address(own), ok),
                Step::Reserved(number, true) => reach.reserved(peer(number)),
                Step::Reserved(number, false) => {
                    if held.remove(&peer(number)) {
                        reach.unreserved(now, peer(number));
                    }
                }
                Step::Wait => reach.handle_timeout(now),
            }
            for effect in effects(&mut reach) {
                match effect {
                    Effect::Confirm(address) => prop_assert!(confirmed.insert(address)),
                    Effect::Withdraw(address) => prop_assert!(confirmed.remove(&address)),
                    Effect::Reserve(peer) => prop_assert!(held.insert(peer)),
                    Effect::Release(peer) => prop_assert!(held.remove(&peer)),
                }
            }
            prop_assert!(held.len() <= RELAYS);
            prop_assert!(reach.confirmed().eq(confirmed.iter()));
        }
    }
}
