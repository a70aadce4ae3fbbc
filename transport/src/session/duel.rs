//! Which of several connections to one peer carries the session. Pure.
//!
//! Two processes that each look only at what they see can close different connections and end with none. So one of them
//! decides: the **judge** is the one with the lower [`PeerKey`](crate::PeerKey). When both streams of a connection are open,
//! both ends say hello (`boot`, `lost`), then the judge answers `go` with an epoch, or `duplicate`. The other end obeys.
//!
//! * `boot` is a process' random nonce. A newer connection with another `boot` proves that the held one leads to a process
//!   that is gone: it is replaced at once, no timeout has to pass.
//! * A process dials a peer only when it holds no connection to it. So a newer connection *dialled by the same end* also
//!   proves the held one dead at that end.
//! * Dialled by different ends, with the same `boot`: both dialled at once, and what is up stays up. While the judge's own
//!   dial is about to come up, the other's waits for it (a second at most), so that at a tie the lower key's dial wins.
//! * Unless the peer says that it has lost exactly the session the judge still holds (`lost` = its epoch): then it is
//!   replaced.

/// A process' random nonce: differs after a restart.
pub(crate) type Boot = [u8; 8];

/// The session that is held with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Whether we dialled its connection.
    pub(crate) by_us: bool,
    /// The peer's nonce, as said on that connection.
    pub(crate) boot: Boot,
    /// The judge's number of this session: grows with each session it grants, from a random start.
    pub(crate) epoch: u64,
    /// When the connection was established, in our own count of connections.
    pub(crate) order: u64,
}

/// A connection that could carry the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Whether we dialled it.
    pub(crate) by_us: bool,
    /// The peer's nonce.
    pub(crate) boot: Boot,
    /// The epoch of the last session that the peer saw end; 0 if none.
    pub(crate) lost: u64,
    /// When it was established, in our own count of connections.
    pub(crate) order: u64,
}

/// What becomes of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It carries the session; what was held is stale.
    Take,
    /// It is a duplicate; what is held stays.
    Refuse,
    /// Ask again when our own dial has come up or failed.
    Wait,
}

/// The judge's decision. `own_opening`: a connection that we dialled is about to come up (and has been for under a second).
pub(crate) fn judge(held: Option<&Held>, own_opening: bool, candidate: &Candidate) -> Verdict {
    let Some(held) = held else {
        return if own_opening && !candidate.by_us { Verdict::Wait } else { Verdict::Take };
    };
    let same_dialler = held.by_us == candidate.by_us;
    let take = if held.boot != candidate.boot || same_dialler {
        candidate.order > held.order
    } else {
        candidate.lost == held.epoch
    };
    if take { Verdict::Take } else { Verdict::Refuse }
}

/// What the other end does with the judge's `go` for a connection: obey, unless a later `go` has already overtaken it.
pub(crate) fn obey(held: Option<&Held>, boot: Boot, epoch: u64, order: u64) -> Verdict {
    let take = held.is_none_or(|held| if held.boot == boot { epoch > held.epoch } else { order > held.order });
    if take { Verdict::Take } else { Verdict::Refuse }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: Boot = [1; 8];
    const NEW: Boot = [2; 8];

    fn held(by_us: bool) -> Held {
        Held { by_us, boot: OLD, epoch: 7, order: 10 }
    }

    fn candidate(by_us: bool, boot: Boot, order: u64) -> Candidate {
        Candidate { by_us, boot, lost: 0, order }
    }

    #[test]
    fn a_restarted_peer_replaces_its_stale_connection_whoever_dialled() {
        for (before, after) in [(true, true), (true, false), (false, true), (false, false)] {
            assert_eq!(judge(Some(&held(before)), false, &candidate(after, NEW, 11)), Verdict::Take);
            assert_eq!(judge(Some(&held(before)), false, &candidate(after, NEW, 9)), Verdict::Refuse, "a late old one");
        }
    }

    #[test]
    fn a_simultaneous_dial_does_not_move_what_is_up() {
        assert_eq!(judge(Some(&held(true)), false, &candidate(false, OLD, 11)), Verdict::Refuse);
        assert_eq!(judge(Some(&held(false)), false, &candidate(true, OLD, 11)), Verdict::Refuse);
    }

    #[test]
    fn at_a_tie_the_judges_own_dial_wins() {
        assert_eq!(judge(None, true, &candidate(false, OLD, 1)), Verdict::Wait);
        assert_eq!(judge(None, true, &candidate(true, OLD, 2)), Verdict::Take);
        assert_eq!(judge(None, false, &candidate(false, OLD, 1)), Verdict::Take);
    }

    #[test]
    fn a_peer_that_lost_the_held_session_gets_a_new_one() {
        let lost = Candidate { lost: 7, ..candidate(false, OLD, 11) };
        assert_eq!(judge(Some(&held(true)), false, &lost), Verdict::Take);
        assert_eq!(judge(Some(&held(true)), false, &Candidate { lost: 6, ..lost }), Verdict::Refuse);
    }

    #[test]
    fn a_second_dial_by_the_same_process_replaces_the_first() {
        assert_eq!(judge(Some(&held(false)), false, &candidate(false, OLD, 11)), Verdict::Take);
    }

    /// A candidate as it reaches the judge: who dialled, in which life of the peer, in which order it asks.
    fn arrivals() -> impl Strategy<Value = Vec<(bool, u8)>> {
        proptest::collection::vec((any::<bool>(), 1u8..4), 1..12).prop_flat_map(|mut list| {
            // A process is started after the one before it ended: boots grow with the order of connections.
            list.sort_by_key(|(_, boot)| *boot);
            Just(list)
        })
    }

    proptest! {
        /// However the asks and the answers are delayed, both ends finish with the same connection, and it leads to the
        /// latest process that asked.
        #[test]
        fn both_ends_finish_with_the_same_connection(
            arrivals in arrivals(),
            asks in proptest::collection::vec(any::<prop::sample::Index>(), 12),
            answers in proptest::collection::vec(any::<prop::sample::Index>(), 12),
        ) {
            let mut waiting: Vec<(u64, bool, u8)> =
                arrivals.iter().enumerate().map(|(i, (by_us, boot))| (i as u64 + 1, *by_us, *boot)).collect();
            let last_boot = waiting.iter().map(|(_, _, boot)| *boot).max().unwrap_or(0);
            let (mut held, mut epoch, mut grants) = (None::<Held>, 100, Vec::new());
            for pick in asks {
                if waiting.is_empty() {
                    break;
                }
                let (order, by_us, boot) = waiting.remove(pick.index(waiting.len()));
                let asked = Candidate { by_us, boot: [boot; 8], lost: 0, order };
                if judge(held.as_ref(), false, &asked) == Verdict::Take {
                    epoch += 1;
                    held = Some(Held { by_us, boot: [boot; 8], epoch, order });
                    grants.push((order, boot, epoch));
                }
            }
            prop_assert!(waiting.is_empty());
            let held = held.expect("the first ask is always taken");
            prop_assert_eq!(held.boot, [last_boot; 8]);

            // The other end is the latest process; it hears its own grants in any order.
            grants.retain(|(_, boot, _)| *boot == last_boot);
            let mut theirs = None::<Held>;
            for pick in answers {
                if grants.is_empty() {
                    break;
                }
                let (order, _, epoch) = grants.remove(pick.index(grants.len()));
                if obey(theirs.as_ref(), OLD, epoch, order) == Verdict::Take {
                    theirs = Some(Held { by_us: false, boot: OLD, epoch, order });
                }
            }
            prop_assert_eq!(theirs.map(|t| t.order), Some(held.order));
        }
    }
}
