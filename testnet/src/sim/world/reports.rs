//! What hosts hear of each other's links, where they choose them: announcements beside the engine, and how much of the
//! fleet is one mesh.
//!
//! A node says it in a `link` document of some seventy values; a thousand such on each of a thousand disks fit into no
//! machine. So the simulator passes what follows from one, along the same sessions: each host hands on what it hears
//! first, over each link one way's delay later, and two hosts that link compare what they have heard as engines do, two and
//! a half round trips later.

use std::sync::Arc;

use transport::{Cost, PeerKey};

use super::{Event, World};
use crate::sim::measure::Sample;
use crate::sim::topology::Parts;

/// What a host takes to hand something on, microseconds.
const HOP_US: u64 = 500;
/// One way's delays until two hosts have compared what they have.
const COMPARE_WAYS: u64 = 5;
/// How often it is looked how much of the fleet is one mesh.
const SAMPLE_US: u64 = 50_000;

/// What a host says of its links, the newest with the greatest number.
#[derive(Debug)]
pub(super) struct Report {
    number: u32,
    pub(super) links: Vec<(PeerKey, Cost)>,
}

/// A report that a host will hear, and when.
type Coming = (u32, u64);

/// What all hosts have heard, by host and origin.
pub(super) struct Known {
    heard: Vec<Vec<Option<Arc<Report>>>>,
    coming: Vec<Vec<Coming>>,
}

impl Known {
    pub(super) fn new(nodes: usize) -> Known {
        Known { heard: vec![vec![None; nodes]; nodes], coming: vec![vec![(0, 0); nodes]; nodes] }
    }

    /// What was on its way to a host is lost; what it heard is on its disk.
    pub(super) fn restart(&mut self, node: usize) {
        self.coming[node].fill((0, 0));
    }

    /// The reports that a host has heard, with their origins.
    pub(super) fn of(&self, node: usize) -> impl Iterator<Item = (usize, &Arc<Report>)> {
        self.heard[node].iter().enumerate().filter_map(|(origin, report)| Some((origin, report.as_ref()?)))
    }

    fn number(&self, node: usize, origin: usize) -> u32 {
        self.heard[node][origin].as_ref().map_or(0, |report| report.number)
    }

    /// Whether a host hears of this first over a link that brings it then.
    fn is_new(&mut self, node: usize, origin: usize, number: u32, at_us: u64) -> bool {
        let (coming, comes_us) = self.coming[node][origin];
        if self.number(node, origin) >= number || coming > number || (coming == number && comes_us <= at_us) {
            return false;
        }
        self.coming[node][origin] = (number, at_us);
        true
    }
}

impl World<'_, '_> {
    /// A host says what its links are, where that is not what it said.
    pub(super) fn announce(&mut self, node: usize) {
        let links = self.own_links(node);
        let Some(ground) = &mut self.mesh else { return };
        let before = &ground.known.heard[node][node];
        if before.as_ref().is_some_and(|before| before.links == links) {
            return;
        }
        let number = ground.known.number(node, node) + 1;
        self.note(node, "announce", &number.to_be_bytes());
        self.stats.measured.announcements += 1;
        let report = Arc::new(Report { number, links });
        if let Some(ground) = &mut self.mesh {
            ground.known.heard[node][node] = Some(Arc::clone(&report));
        }
        self.hand_on(node, node, &report);
    }

    /// A host hears what another says of its links.
    pub(super) fn hear(&mut self, node: usize, origin: usize, report: Arc<Report>) {
        let (now, start) = (self.moment(), self.hosts[node].start);
        let busy_until_us = self.hosts[node].busy_until_us;
        if busy_until_us > self.now_us {
            return self.schedule(busy_until_us, Event::Hear { node, start, origin, report });
        }
        let is_member = self.is_member(node, &self.fleet.device(origin));
        let Some(ground) = &mut self.mesh else { return };
        if ground.known.number(node, origin) >= report.number {
            return;
        }
        ground.known.heard[node][origin] = Some(Arc::clone(&report));
        let nodes = self.hosts.len();
        if let Some(mesh) = self.hosts[node].mesh.as_mut().filter(|_| is_member) {
            mesh.routes.report(ground.keys[origin], &report.links);
            if mesh.routes.is_stale() {
                mesh.search_soon(now, nodes);
            }
        }
        self.hand_on(node, origin, &report);
        self.set_timer(node);
    }

    fn hand_on(&mut self, node: usize, origin: usize, report: &Arc<Report>) {
        let Some(mesh) = &self.hosts[node].mesh else { return };
        let links: Vec<_> = mesh.links.iter().map(|(link, of)| (*link, of.peer)).collect();
        for (link, peer) in links {
            if let Some(session) = self.links.get(&(node, link)).copied() {
                self.tell(session, peer, origin, report);
            }
        }
    }

    /// An end of a session is told by the other.
    fn tell(&mut self, session: u64, peer: usize, origin: usize, report: &Arc<Report>) {
        let Some(session) = self.sessions.get(&session) else { return };
        let state = &self.lines[session.line];
        let at_us = self.now_us + state.line.delay_us + state.line.jitter_us / 2 + HOP_US;
        if state.is_muted[session.slot_of(peer)] || peer == origin {
            return;
        }
        let start = self.hosts[peer].start;
        if self.mesh.as_mut().is_some_and(|ground| ground.known.is_new(peer, origin, report.number, at_us)) {
            self.schedule(at_us, Event::Hear { node: peer, start, origin, report: Arc::clone(report) });
        }
    }

    /// A session is up: its ends compare what they have heard, once they have greeted.
    pub(super) fn session_came_up(&mut self, session: u64) {
        let Some(line) = self.sessions.get(&session).map(|session| session.line).filter(|_| self.mesh.is_some()) else {
            return;
        };
        let at_us = self.now_us + COMPARE_WAYS * self.lines[line].line.delay_us;
        self.schedule(at_us, Event::Compare { session });
    }

    /// Each end of a session tells the other what that has not heard.
    pub(super) fn compare(&mut self, session: u64) {
        let Some([(a, _), (b, _)]) = self.sessions.get(&session).map(|session| session.ends) else { return };
        for (node, peer) in [(a, b), (b, a)] {
            let Some(ground) = &self.mesh else { return };
            let lacks = |(origin, report): &(usize, &Arc<Report>)| ground.known.number(peer, *origin) < report.number;
            let news: Vec<(usize, Arc<Report>)> =
                ground.known.of(node).filter(lacks).map(|(origin, report)| (origin, Arc::clone(report))).collect();
            news.iter().for_each(|(origin, report)| self.tell(session, peer, *origin, report));
        }
    }

    /// How much of the fleet is one mesh, over links that both ends hold and use.
    pub(super) fn sample(&mut self) {
        let nodes = self.hosts.len();
        let (mut parts, mut degrees) = (Parts::new(nodes), vec![0; nodes]);
        for session in self.sessions.values() {
            let is_held = |(node, link): &(usize, _)| {
                let mesh = self.hosts[*node].mesh.as_ref();
                mesh.is_some_and(|mesh| mesh.links.contains_key(link)) && !self.is_suspect(*node, *link)
            };
            if session.ends.iter().all(is_held) {
                let [(a, _), (b, _)] = session.ends;
                parts.join(a, b);
                degrees[a] += 1;
                degrees[b] += 1;
            }
        }
        let mut sizes = vec![0; nodes];
        let up: Vec<usize> = (0..nodes).filter(|node| self.hosts[*node].is_up()).collect();
        up.iter().for_each(|node| sizes[parts.find(*node)] += 1);
        let measured = &mut self.stats.measured;
        measured.samples.push(Sample {
            at_us: self.now_us,
            up: up.len(),
            connected: sizes.into_iter().max().unwrap_or(0),
            links: degrees.iter().sum::<usize>() / 2,
            most_links: degrees.into_iter().max().unwrap_or(0),
            links_changed: measured.links_changed,
            announcements: measured.announcements,
        });
        self.schedule(self.now_us + SAMPLE_US, Event::Sample);
    }
}
