//! What a host knows of the mesh, where hosts choose their links: whom to dial and whose links to close
//! (`transport::Dials`), what its links are like (`Meter`), and its ways (`Routes`), each driven as the node drives it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crdt::sync::LinkId;
use transport::{
    Cost, Dials, Gathering, LinkKind, LinkState, Meter, PeerKey, REPORT_DAMP_MAX, REPORT_LATER, REPORT_SOON, Routes,
    SEARCH_DAMP_MAX_A_NODE, SEARCH_SOON,
};

/// A link that is up, as the host believes.
#[derive(Debug)]
pub(crate) struct Link {
    /// The number of the host at its other end.
    pub(crate) peer: usize,
    pub(crate) key: PeerKey,
    kind: LinkKind,
    meter: Meter,
}

impl Link {
    pub(crate) fn new(peer: usize, key: PeerKey, is_near: bool) -> Link {
        Link { peer, key, kind: if is_near { LinkKind::Lan } else { LinkKind::Wan }, meter: Meter::default() }
    }

    /// What the host says of it, as far as it was measured.
    pub(crate) fn cost(&self) -> Option<Cost> {
        let measured = self.meter.announced()?;
        let state = LinkState {
            rtt_micros: measured.rtt_micros,
            jitter_micros: measured.jitter_micros,
            loss_ppm: measured.loss_ppm,
            kind: self.kind,
            is_metered: false,
            is_on_battery: false,
            is_busy: false,
        };
        Some(state.cost())
    }
}

/// What is to be done about a link that was measured.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measured {
    /// It is to be probed again at once.
    pub(crate) is_new: bool,
    pub(crate) is_in_doubt: bool,
    /// Its ways cost otherwise than before.
    pub(crate) has_settled: bool,
}

/// A host's part of the mesh.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) me: PeerKey,
    pub(crate) dials: Dials,
    pub(crate) routes: Routes,
    pub(crate) links: BTreeMap<LinkId, Link>,
    /// Hosts of which it is known where they are.
    located: BTreeSet<PeerKey>,
    report: Gathering,
    search: Gathering,
    /// The roster changed: it is read again then.
    roster_at: Option<Duration>,
}

impl Mesh {
    pub(crate) fn new(me: PeerKey, random: u64) -> Mesh {
        Mesh {
            me,
            dials: Dials::new(me, random),
            routes: Routes::new(me),
            links: BTreeMap::new(),
            located: BTreeSet::new(),
            report: Gathering::new(REPORT_SOON, REPORT_DAMP_MAX),
            search: Gathering::new(SEARCH_SOON, SEARCH_SOON),
            roster_at: None,
        }
    }

    /// It is known where a host is.
    pub(crate) fn locate(&mut self, now: Duration, key: PeerKey) {
        if self.located.insert(key) {
            self.dials.located(now, key, true);
        }
    }

    /// The link with a host.
    pub(crate) fn link_with(&self, peer: usize) -> Option<LinkId> {
        self.links.iter().find(|(_, link)| link.peer == peer).map(|(link, _)| *link)
    }

    /// A probe of a link came back, and says something of it.
    pub(crate) fn answered(&mut self, now: Duration, link: LinkId, micros: u64, is_in_use: bool) {
        if let Some(link) = self.links.get_mut(&link) {
            link.meter.answered(now, micros, is_in_use);
        }
    }

    /// A round trip was measured.
    pub(crate) fn measured(&mut self, now: Duration, link: LinkId, micros: u64) -> Measured {
        let Some(link) = self.links.get_mut(&link) else { return Measured::default() };
        self.dials.measured(link.key, micros);
        let before = link.meter.announced();
        let has_settled = link.meter.settle();
        if has_settled {
            let both = before.zip(link.meter.announced());
            let is_much_worse = both.is_some_and(|(before, after)| after.is_much_worse_than(&before));
            self.report.ask(now, if is_much_worse { REPORT_SOON } else { REPORT_LATER });
        }
        Measured { is_new: link.meter.is_new(), is_in_doubt: link.meter.is_in_doubt(), has_settled }
    }

    /// What the host says of its links is to be said again.
    pub(crate) fn report_soon(&mut self, now: Duration) {
        self.report.ask(now, REPORT_SOON);
    }

    pub(crate) fn takes_report(&mut self, now: Duration) -> bool {
        self.report.take(now)
    }

    /// What others said moves ways.
    pub(crate) fn search_soon(&mut self, now: Duration, nodes: usize) {
        self.search.set_most(SEARCH_DAMP_MAX_A_NODE * u32::try_from(nodes).unwrap_or(u32::MAX));
        self.search.ask(now, SEARCH_SOON);
    }

    /// What happened to an own link moves ways.
    pub(crate) fn search_now(&mut self, now: Duration) {
        self.search.ask_at(now);
    }

    pub(crate) fn takes_search(&mut self, now: Duration) -> bool {
        self.search.take(now)
    }

    /// The roster changed: a fleet that enrols brings many statements at once.
    pub(crate) fn roster_changed(&mut self, at: Duration) {
        self.roster_at.get_or_insert(at);
    }

    pub(crate) fn takes_roster(&mut self, now: Duration) -> bool {
        self.roster_at.take_if(|at| *at <= now).is_some()
    }

    /// When it has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let gathered = [self.report.poll_timeout(), self.search.poll_timeout(), self.roster_at];
        gathered.into_iter().flatten().chain(self.dials.poll_timeout()).min()
    }
}
