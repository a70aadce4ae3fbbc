//! Links in virtual time: what comes back is decided by the test.

use proptest::prelude::*;

use super::*;

const LINK: SessionId = SessionId(1);
const IDLE: Duration = Duration::from_secs(2);
const RTT: Duration = Duration::from_millis(10);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A link and the way to its peer.
struct World {
    liveness: Liveness,
    now: Duration,
    /// Whether what is sent arrives, and whether what the peer sends does.
    ways: [bool; 2],
    /// Answers on their way: when they arrive, and when their probes left.
    answers: VecDeque<(Duration, Duration)>,
    verdicts: Vec<(Duration, Verdict)>,
    /// The peer sends something by itself this often.
    traffic: Option<Duration>,
    next_traffic: Duration,
    /// The timer of this node fires this much late.
    late: Duration,
}

impl World {
    fn new(traffic: Option<Duration>) -> World {
        let mut liveness = Liveness::default();
        liveness.up(Duration::ZERO, LINK, RTT, IDLE, true);
        World {
            liveness,
            now: Duration::ZERO,
            ways: [true, true],
            answers: VecDeque::new(),
            verdicts: Vec::new(),
            traffic,
            next_traffic: Duration::ZERO,
            late: Duration::ZERO,
        }
    }

    /// Lets time pass, a millisecond a step.
    fn run(&mut self, for_so_long: Duration) {
        let end = self.now + for_so_long;
        while self.now < end {
            self.now += ms(1);
            while let Some((_, sent_at)) = self.answers.pop_front_if(|(at, _)| *at <= self.now) {
                self.liveness.heard(self.now, LINK);
                self.liveness.answered(self.now, LINK, self.now - sent_at);
            }
            if let Some(every) = self.traffic.filter(|_| self.next_traffic <= self.now) {
                self.next_traffic = self.now + every;
                if self.ways[1] {
                    self.liveness.heard(self.now, LINK);
                }
            }
            if self.liveness.poll_timeout().is_some_and(|at| at + self.late <= self.now) {
                self.liveness.timer(self.now);
            }
            while let Some(verdict) = self.liveness.poll_verdict() {
                if verdict == Verdict::Probe(LINK) && self.ways == [true, true] {
                    self.answers.push_back((self.now + RTT, self.now));
                }
                self.verdicts.push((self.now, verdict));
            }
        }
    }

    fn when(&self, verdict: Verdict) -> Option<Duration> {
        self.verdicts.iter().find(|(_, other)| *other == verdict).map(|(at, _)| *at)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.verdicts.iter().filter(|(_, other)| *other == verdict).count()
    }
}

#[test]
fn an_idle_link_is_probed_every_two_seconds_and_lives() {
    let mut world = World::new(None);
    world.run(ms(60_000));
    assert!((28..=31).contains(&world.count(Verdict::Probe(LINK))), "{:?}", world.verdicts);
    assert_eq!(world.verdicts.len(), world.count(Verdict::Probe(LINK)));
}

/// Both ends watch an idle link, and mostly one of them probes it.
#[test]
fn one_end_of_an_idle_link_probes_for_both() {
    let mut ends = [Liveness::default(), Liveness::default()];
    ends[0].up(ms(0), LINK, RTT, IDLE, true);
    ends[1].up(ms(300), LINK, RTT, IDLE, false);
    // Probes and answers on their way: when they arrive, at whom, and when the probe left that is answered.
    let mut frames: VecDeque<(Duration, usize, Option<Duration>)> = VecDeque::new();
    let mut probes = [0, 0];
    for now in (301..60_000).map(ms) {
        while let Some((_, at, answers)) = frames.pop_front_if(|(arrives, ..)| *arrives <= now) {
            ends[at].heard(now, LINK);
            match answers {
                Some(sent_at) => drop(ends[at].answered(now, LINK, now - sent_at)),
                None => frames.push_back((now + RTT / 2, 1 - at, Some(now - RTT / 2))),
            }
        }
        for (number, end) in ends.iter_mut().enumerate() {
            end.timer(now);
            while let Some(verdict) = end.poll_verdict() {
                assert_eq!(verdict, Verdict::Probe(LINK));
                probes[number] += 1;
                frames.push_back((now + RTT / 2, 1 - number, None));
            }
        }
    }
    assert!((28..40).contains(&(probes[0] + probes[1])), "{probes:?}");
    assert!(probes.iter().all(|probes| *probes >= 6), "both know the round trip: {probes:?}");
}

/// Who sleeps wakes once for many links, whenever each of them came up.
#[test]
fn idle_links_are_probed_together() {
    let mut liveness = Liveness::default();
    let links: Vec<SessionId> = (0..12).map(SessionId).collect();
    for (number, link) in links.iter().enumerate() {
        liveness.up(ms(number as u64 * 170), *link, RTT, IDLE, true);
    }
    let (mut moments, mut probes, mut answers) = (0, 0, VecDeque::new());
    for now in (2_001..42_000).map(ms) {
        while let Some((_, link)) = answers.pop_front_if(|(at, _)| *at <= now) {
            liveness.heard(now, link);
            liveness.answered(now, link, RTT);
        }
        liveness.timer(now);
        let due: Vec<Verdict> = std::iter::from_fn(|| liveness.poll_verdict()).collect();
        moments += u32::from(!due.is_empty());
        for verdict in due {
            let Verdict::Probe(link) = verdict else { panic!("{verdict:?}") };
            probes += 1;
            answers.push_back((now + RTT, link));
        }
    }
    assert!((220..=260).contains(&probes), "{probes}");
    assert!(moments <= 42, "{moments} moments in forty seconds");
}

#[test]
fn an_idle_link_that_dies_is_suspect_within_its_interval_and_evicted_later() {
    let mut world = World::new(None);
    world.run(ms(10_100));
    world.ways = [false, false];
    world.run(ms(12_000));
    let suspect = world.when(Verdict::Suspect(LINK)).expect("it is dead");
    assert!(suspect < ms(10_100 + 2_000 + 200), "{suspect:?}");
    let renew = world.when(Verdict::Renew(LINK)).expect("it is dead");
    assert!(
        (ms(1_500)..=ms(2_500)).contains(&(renew - suspect)) && world.count(Verdict::Renew(LINK)) == 1,
        "{renew:?}"
    );
    let evict = world.when(Verdict::Evict(LINK)).expect("it is dead");
    assert!((ms(5_000)..=ms(10_000)).contains(&(evict - suspect)), "{suspect:?} {evict:?}");
    assert_eq!(world.liveness.poll_timeout(), None, "it is forgotten");
}

#[test]
fn a_link_in_use_that_dies_is_suspect_within_300_ms() {
    let mut world = World::new(Some(ms(20)));
    world.run(ms(30_000));
    assert!(world.count(Verdict::Probe(LINK)) <= 30, "only for its round trip: {:?}", world.verdicts);
    world.ways = [false, false];
    world.run(ms(1_000));
    let suspect = world.when(Verdict::Suspect(LINK)).expect("it is dead") - ms(30_000);
    assert!(suspect <= ms(300), "{suspect:?}");
}

/// What waited at a peer that stood still comes back late, all at once; the next failure is seen as soon as any other.
#[test]
fn late_answers_slow_nothing_down() {
    let mut world = World::new(Some(ms(20)));
    world.run(ms(5_000));
    world.ways = [false, false];
    world.run(ms(3_000));
    for late in [3_000, 2_900, 2_800, 2_500, 2_000, 1_500, 1_000, 500] {
        assert!(!world.liveness.answered(world.now, LINK, ms(late)), "says nothing of the link");
    }
    world.run(ms(100));
    assert_eq!(world.count(Verdict::Clear(LINK)), 1);
    let again = world.now;
    world.verdicts.clear();
    world.run(ms(1_000));
    let suspect = world.when(Verdict::Suspect(LINK)).expect("it is dead") - again;
    assert!(suspect <= ms(300), "{suspect:?}");
}

#[test]
fn what_is_awaited_or_doubted_is_probed_soon() {
    for doubts in [false, true] {
        let mut world = World::new(None);
        world.run(ms(5_000));
        world.ways = [false, false];
        if doubts {
            world.liveness.doubt(world.now, LINK);
        } else {
            world.liveness.awaits(world.now, LINK);
        }
        world.run(ms(1_000));
        let suspect = world.when(Verdict::Suspect(LINK)).expect("it is dead") - ms(5_000);
        assert!(suspect <= ms(if doubts { 170 } else { 270 }), "{doubts}: {suspect:?}");
    }
}

#[test]
fn a_link_that_hears_and_is_not_heard_is_suspect() {
    let mut world = World::new(Some(ms(20)));
    world.run(ms(10_000));
    world.ways = [false, true];
    while world.when(Verdict::Suspect(LINK)).is_none() && world.now < ms(20_000) {
        world.run(ms(10));
    }
    let suspect = world.when(Verdict::Suspect(LINK)).expect("nothing is answered") - ms(10_000);
    assert_eq!(world.liveness.suspected(LINK), Some(Suspected::Unanswered));
    assert!(suspect >= ONE_WAY && suspect <= ms(9_200), "{suspect:?}");
}

#[test]
fn a_link_comes_back_at_once_the_first_time_and_ever_later_while_it_flaps() {
    let mut world = World::new(Some(ms(20)));
    let mut waits = Vec::new();
    for _ in 0..5 {
        world.run(ms(2_000));
        world.ways = [false, false];
        world.run(ms(1_000));
        world.ways = [true, true];
        let back = world.now;
        world.verdicts.clear();
        world.run(ms(9_000));
        waits.push((world.when(Verdict::Clear(LINK)).expect("it is alive") - back).as_millis());
    }
    assert!(waits[0] <= 300 && waits.is_sorted() && waits[4] >= 3_900, "{waits:?}");
    world.run(ms(70_000));
    world.ways = [false, false];
    world.run(ms(1_000));
    world.ways = [true, true];
    let back = world.now;
    world.verdicts.clear();
    world.run(ms(9_000));
    assert!(world.when(Verdict::Clear(LINK)).expect("it is alive") - back <= ms(300), "a minute forgives");
}

#[test]
fn a_link_that_answers_and_falls_silent_again_is_evicted_all_the_same() {
    let mut world = World::new(Some(ms(20)));
    for _ in 0..4 {
        world.run(ms(2_000));
        world.ways = [false, false];
        world.run(ms(1_000));
        world.ways = [true, true];
        world.run(ms(600));
    }
    assert!(world.liveness.is_suspect(LINK), "it has to prove more by now");
    world.ways = [false, false];
    world.run(ms(9_000));
    assert_eq!(world.count(Verdict::Evict(LINK)), 1, "{:?}", world.verdicts);
}

#[test]
fn a_node_that_is_late_itself_accuses_nobody() {
    let mut world = World::new(Some(ms(20)));
    world.run(ms(10_000));
    // The node stands still for a minute; then what the peer sent meanwhile waits in its sockets, behind the timer.
    world.now += ms(60_000);
    world.run(ms(5_000));
    world.late = ms(400);
    world.run(ms(20_000));
    assert_eq!(world.count(Verdict::Suspect(LINK)), 0, "{:?}", world.verdicts);
    world.ways = [false, false];
    world.late = ms(50);
    world.run(ms(3_000));
    assert_eq!(world.count(Verdict::Suspect(LINK)), 1, "a little late is well enough");
    assert_eq!(world.liveness.suspected(LINK), Some(Suspected::Silent));
}

#[derive(Debug, Clone)]
enum Act {
    Up(u64),
    Down(u64),
    Heard(u64),
    Awaits(u64),
    Doubt(u64),
    Answered(u64, u64),
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let link = || 0..3_u64;
    prop_oneof![
        1 => link().prop_map(Act::Up),
        1 => link().prop_map(Act::Down),
        4 => link().prop_map(Act::Heard),
        1 => link().prop_map(Act::Awaits),
        1 => link().prop_map(Act::Doubt),
        2 => (link(), prop_oneof![0..1_000_000_u64, Just(u64::MAX)]).prop_map(|(link, rtt)| Act::Answered(link, rtt)),
        6 => prop_oneof![0..300_u64, Just(8_000)].prop_map(Act::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens: a link is suspect, cleared and evicted in that order; probes are bounded; and the timer never
    /// asks to be called at once for ever.
    #[test]
    fn verdicts_come_in_order(acts in proptest::collection::vec(act(), 1..120)) {
        let mut liveness = Liveness::default();
        let (mut now, mut suspect) = (Duration::ZERO, std::collections::BTreeSet::new());
        for act in acts {
            match act {
                Act::Up(link) => {
                    suspect.remove(&SessionId(link));
                    liveness.up(now, SessionId(link), RTT, IDLE, true);
                }
                Act::Down(link) => {
                    suspect.remove(&SessionId(link));
                    liveness.down(SessionId(link));
                }
                Act::Heard(link) => liveness.heard(now, SessionId(link)),
                Act::Awaits(link) => liveness.awaits(now, SessionId(link)),
                Act::Doubt(link) => liveness.doubt(now, SessionId(link)),
                Act::Answered(link, rtt) => {
                    liveness.answered(now, SessionId(link), Duration::from_micros(rtt));
                }
                Act::Pass(millis) => now += ms(millis),
            }
            liveness.timer(now);
            prop_assert!(liveness.poll_timeout().is_none_or(|at| at > now));
            let mut probes = 0;
            while let Some(verdict) = liveness.poll_verdict() {
                match verdict {
                    Verdict::Probe(_) => probes += 1,
                    Verdict::Suspect(link) => prop_assert!(suspect.insert(link)),
                    Verdict::Renew(link) => prop_assert!(suspect.contains(&link)),
                    Verdict::Clear(link) => prop_assert!(suspect.remove(&link)),
                    Verdict::Evict(link) => prop_assert!(suspect.remove(&link)),
                }
            }
            prop_assert!(probes <= 3);
            for link in (0..3).map(SessionId) {
                prop_assert_eq!(liveness.is_suspect(link), suspect.contains(&link));
            }
        }
    }
}

#[test]
fn a_link_in_use_is_measured_every_second_and_an_idle_one_is_not() {
    let mut world = World::new(Some(ms(20)));
    world.run(ms(10_000));
    let probes = world.count(Verdict::Probe(LINK));
    assert!((8..=12).contains(&probes), "{probes}");
    // The peer leads, and probes it every two seconds.
    let mut world = World::new(Some(ms(2_000)));
    world.liveness.up(Duration::ZERO, LINK, RTT, IDLE, false);
    world.run(ms(32_000));
    let probes = world.count(Verdict::Probe(LINK));
    assert!((3..=6).contains(&probes), "{probes}");
}

#[test]
fn a_link_in_use_is_examined_with_sixteen_probes_one_link_at_a_time() {
    let mut world = World::new(Some(ms(20)));
    let other = SessionId(2);
    world.liveness.up(Duration::ZERO, other, RTT, ms(100_000), true);
    world.run(ms(1_020));
    let probes = |world: &World| (world.count(Verdict::Probe(LINK)), world.count(Verdict::Probe(other)));
    assert_eq!(probes(&world), (1, 0), "for its round trip");
    (0..10).for_each(|_| world.liveness.examine(world.now, LINK));
    world.liveness.examine(world.now, other);
    world.run(ms(800));
    assert_eq!(probes(&world), (17, 0));
    world.liveness.examine(world.now, LINK);
    world.run(ms(100));
    assert_eq!(probes(&world), (17, 0), "it was examined just now");
    // Nobody waits for what an idle link is like.
    let mut world = World::new(None);
    world.run(ms(2_020));
    world.liveness.examine(world.now, LINK);
    world.run(ms(900));
    assert_eq!(world.count(Verdict::Probe(LINK)), 1);
}

/// The peer hears nothing and says so: one probe more decides, whatever comes of the peer.
/// Packets that are lost are repaired before a probe is late, but what came after them waited.
#[test]
fn a_gap_much_longer_than_all_before_has_a_link_in_use_examined() {
    let probes_after = |traffic, gap| {
        let mut world = World::new(Some(traffic));
        world.run(ms(5_000));
        world.next_traffic = world.now + gap;
        let before = world.count(Verdict::Probe(LINK));
        world.run(ms(900));
        world.count(Verdict::Probe(LINK)) - before
    };
    assert!(probes_after(ms(20), ms(20)) <= 1);
    assert!(probes_after(ms(20), ms(80)) >= 14);
    assert!(probes_after(ms(300), ms(800)) <= 4, "it is not in use");
}

#[test]
fn who_is_not_heard_need_not_wait() {
    let mut world = World::new(Some(ms(20)));
    world.run(ms(5_000));
    world.ways = [false, true];
    world.run(ms(300));
    assert_eq!(world.count(Verdict::Suspect(LINK)), 0, "bytes come");
    world.liveness.unheard(world.now, LINK);
    world.run(ms(60));
    assert_eq!(world.count(Verdict::Suspect(LINK)), 1);
    assert_eq!(world.liveness.suspected(LINK), Some(Suspected::Unheard));
    // What was said while this node stood still is old: the probe is answered.
    let mut world = World::new(Some(ms(20)));
    world.run(ms(5_000));
    world.liveness.unheard(world.now, LINK);
    world.liveness.unheard(world.now, LINK);
    world.run(ms(2_000));
    assert_eq!(world.count(Verdict::Suspect(LINK)), 0);
}
