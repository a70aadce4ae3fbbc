//! Which links hosts take for dead: [`transport::Liveness`], driven as the node does it.

use std::time::Duration;

use crdt::sync::{Input, LinkId};
use transport::{SessionId, Verdict};

use super::World;
use crate::sim::host::Waiting;

/// How long a link is silent before it is probed.
const PROBE_EVERY: Duration = Duration::from_secs(2);

pub(super) fn session(link: LinkId) -> SessionId {
    SessionId(link.0)
}

impl World<'_, '_> {
    pub(super) fn moment(&self) -> Duration {
        Duration::from_micros(self.now_us)
    }

    /// What an input says of a link, before the engine has it.
    pub(super) fn watch_link(&mut self, node: usize, input: &Input) {
        let now = self.moment();
        match input {
            Input::Frame { link, .. } => self.hosts[node].liveness.heard(now, session(*link)),
            Input::LinkUp { link, peer, .. } => self.mesh_up(node, *link, peer),
            Input::LinkDown(link) => {
                self.hosts[node].liveness.down(session(*link));
                self.mesh_down(node, *link);
            }
            _ => {}
        }
    }

    /// A probe came back.
    pub(super) fn round_trip(&mut self, node: usize, link: LinkId, micros: u64) {
        let (now, rtt) = (self.moment(), Duration::from_micros(micros));
        // The first end of a session leads.
        let leads = self.links.get(&(node, link)) == Some(&link.0);
        let liveness = &mut self.hosts[node].liveness;
        if !liveness.is_watched(session(link)) {
            liveness.up(now, session(link), rtt, PROBE_EVERY, leads);
        }
        if liveness.answered(now, session(link), rtt) {
            self.meter_answered(node, link, micros);
        }
        self.mesh_measured(node, link, micros);
    }

    /// Another link told of what this one did not bring.
    pub(super) fn is_behind(&mut self, node: usize, link: LinkId) {
        let now = self.moment();
        self.hosts[node].liveness.doubt(now, session(link));
    }

    pub(super) fn is_suspect(&self, node: usize, link: LinkId) -> bool {
        self.hosts[node].liveness.is_suspect(session(link))
    }

    /// Probes and verdicts that are due.
    pub(super) fn judge_links(&mut self, node: usize) {
        let now = self.moment();
        self.hosts[node].liveness.timer(now);
        while let Some(verdict) = self.hosts[node].liveness.poll_verdict() {
            self.note(node, "verdict", format!("{verdict:?}").as_bytes());
            match verdict {
                Verdict::Probe(session) => {
                    self.input(node, Waiting { input: Input::Probe(LinkId(session.0)), from: None });
                }
                Verdict::Suspect(session) => {
                    self.stats.suspicions += 1;
                    self.routes_changed();
                    self.mesh_doubts(node, LinkId(session.0));
                }
                // Nothing here forgets a link and lets another pass.
                Verdict::Renew(_) => {}
                Verdict::Clear(session) => {
                    self.routes_changed();
                    self.mesh_doubts(node, LinkId(session.0));
                }
                Verdict::Evict(session) => {
                    let link = LinkId(session.0);
                    self.stats.evictions += 1;
                    self.mesh_closed(node, link);
                    self.closed_by(node, link);
                    self.input(node, Waiting { input: Input::LinkDown(link), from: None });
                }
            }
        }
    }
}
