//! Judging the changes of many frames ahead, on as many threads as the driver has.
//!
//! What becomes of a run depends on what is stored of its document and on the statements, and on nothing else. So the
//! runs of frames that wait are sorted by document, and each document's are judged one after another on writes of their
//! own, apart from all others ([`Foresight::judge`] is pure). Then the frames are taken in order, by one thread, as if
//! nothing had been judged: a judgement is used where its document and the statements are still as it took them to be,
//! and made anew otherwise. So the result is the same, whoever judged how much.

use std::collections::{BTreeMap, VecDeque};

use super::frame::{Changes, Frame, changes_number};
use super::{Channel, Effect, Engine, LinkId};
use crate::admission::{Gate, Outcome};
use crate::change::{LogName, Run};
use crate::id::{Actor, FleetId, Time};
use crate::roster::Roster;
use crate::schema::DocumentName;
use crate::store::{Batch, LogStore, Staged};

/// A frame that came on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFrame {
    /// The session.
    pub link: LinkId,
    /// The stream on which it came.
    pub channel: Channel,
    /// The frame.
    pub bytes: Vec<u8>,
}

/// What is to be judged of some frames; made by [`Engine::foresee`].
#[derive(Debug)]
pub struct Foresight<'a> {
    turn: u64,
    fleet: FleetId,
    roster: &'a Roster,
    documents: Vec<Document<'a>>,
}

/// The runs of one document, in the order in which they came.
#[derive(Debug)]
struct Document<'a> {
    siblings: Vec<Actor>,
    runs: Vec<Waiting<'a>>,
}

#[derive(Debug)]
struct Waiting<'a> {
    /// Position of its frame.
    at: usize,
    log: LogName,
    bytes: &'a [u8],
}

/// What was judged of one document; goes into [`Input::Frames`](super::Input::Frames).
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    turn: u64,
    runs: Vec<JudgedRun>,
}

#[derive(Debug, Clone, PartialEq)]
struct JudgedRun {
    at: usize,
    run: Run,
    verdict: Option<Verdict>,
}

/// What becomes of a run, and the writes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) writes: Batch,
}

/// Judgements that may still be used while frames are taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Foreseen {
    runs: BTreeMap<usize, (Run, Option<Verdict>)>,
    /// Of each document the frames that were judged, in the order in which that was done.
    next: BTreeMap<DocumentName, VecDeque<usize>>,
}

impl Foreseen {
    /// Of judgements that were made for this turn of the engine.
    pub(super) fn new(judged: Vec<Judged>, turn: u64) -> Foreseen {
        let mut foreseen = Foreseen::default();
        for JudgedRun { at, run, verdict } in judged.into_iter().filter(|of| of.turn == turn).flat_map(|of| of.runs) {
            foreseen.next.entry(run.log.document.clone()).or_default().push_back(at);
            foreseen.runs.insert(at, (run, verdict));
        }
        foreseen
    }

    /// The run of a frame, with its judgement where that still holds: where of its document exactly the runs before it
    /// were taken.
    pub(super) fn take(&mut self, at: usize) -> Option<(Run, Option<Verdict>)> {
        let (run, verdict) = self.runs.remove(&at)?;
        let next = self.next.get_mut(&run.log.document).and_then(VecDeque::pop_front);
        if next == Some(at) {
            return Some((run, verdict));
        }
        self.forget(&run.log.document);
        Some((run, None))
    }

    /// A document is not as it was foreseen.
    pub(super) fn forget(&mut self, document: &DocumentName) {
        self.next.remove(document);
    }

    /// Statements came: nothing holds any more.
    pub(super) fn forget_all(&mut self) {
        self.next.clear();
    }
}

impl Engine {
    /// Takes frames in order. One that the store cannot be read for keeps none of the others back.
    pub(super) fn receive_frames(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        frames: Vec<LinkFrame>,
        judged: Vec<Judged>,
    ) {
        self.foreseen = Foreseen::new(judged, self.turn - 1);
        for (at, LinkFrame { link, channel, bytes }) in frames.into_iter().enumerate() {
            if !self.links.contains_key(&link) {
                continue;
            }
            let taken = match self.foreseen.take(at) {
                Some((run, verdict)) => self.take_judged(now, staged, Some(link), run, verdict),
                None => self.receive(now, staged, link, &bytes),
            };
            if let Err(error) = taken {
                self.effects.push_back(Effect::Fault(error));
            }
            self.settle_name(link, &bytes);
            self.count_payload(link, channel, &bytes);
        }
        self.foreseen = Foreseen::default();
    }

    /// Looks ahead at frames that are the next input: what [`Foresight::judge`] says of them goes in with them.
    pub fn foresee<'a>(&'a self, frames: &'a [LinkFrame]) -> Foresight<'a> {
        let mut documents: BTreeMap<DocumentName, Document<'a>> = BTreeMap::new();
        // Names that come in these frames, behind those that are known.
        let mut names: BTreeMap<LinkId, Vec<LogName>> = BTreeMap::new();
        for (at, LinkFrame { link, bytes, .. }) in frames.iter().enumerate() {
            let Some(known) = self.links.get(link).filter(|link| link.standing.peer.is_some()) else { continue };
            let later = names.entry(*link).or_default();
            let Some(number) = changes_number(bytes) else {
                if let Ok(Some(Frame::Name(name))) = Frame::decode(bytes)
                    && name.number as usize == known.names.heard() + later.len()
                {
                    later.push(name.log);
                }
                continue;
            };
            let name = known.names.name(number, &self.replica.logs);
            let after = || (number as usize).checked_sub(known.names.heard()).and_then(|at| later.get(at).cloned());
            let Some(log) = name.or_else(after) else { continue };
            let siblings = || self.replica.logs.of_document(&log.document);
            let document = documents.entry(log.document.clone());
            let document = document.or_insert_with(|| Document { siblings: siblings(), runs: Vec::new() });
            document.runs.push(Waiting { at, log, bytes });
        }
        let mut documents: Vec<Document<'a>> = documents.into_values().collect();
        // The long ones first, so that no thread begins one when the others are done.
        documents.sort_by_key(|document| std::cmp::Reverse(document.runs.len()));
        Foresight { turn: self.turn, fleet: self.config.fleet, roster: self.replica.roster(), documents }
    }
}

impl Foresight<'_> {
    /// Documents that can be judged apart.
    pub fn documents(&self) -> usize {
        self.documents.len()
    }

    /// Judges the runs of one document, numbered from 0. The store has to be as it will be when the frames are taken.
    pub fn judge(&self, document: usize, store: &dyn LogStore) -> Judged {
        let mut runs = Vec::new();
        if let Some(Document { siblings, runs: waiting }) = self.documents.get(document) {
            let gate = Gate { fleet: &self.fleet, roster: self.roster };
            let mut staged = Staged::new(store);
            let mut siblings = siblings.clone();
            for (number, Waiting { at, log, bytes }) in (1..).zip(waiting) {
                let Ok(Some(Frame::Changes(changes))) = Frame::decode(bytes) else { continue };
                let Changes { first_seq, changes, signature, .. } = changes;
                let run = Run { log: log.clone(), first_seq, changes, signature };
                let verdict = judge_run(&gate, &staged, &siblings, &run);
                // What comes last nothing is judged on top of.
                if let Some(verdict) = verdict.as_ref().filter(|_| number < waiting.len()) {
                    build_on(verdict, &mut staged, &mut siblings);
                }
                runs.push(JudgedRun { at: *at, run, verdict });
            }
        }
        Judged { turn: self.turn, runs }
    }
}

/// Judges a run on top of those before it; none where that cannot be told before the frames are taken.
fn judge_run(gate: &Gate<'_>, staged: &Staged<'_>, siblings: &[Actor], run: &Run) -> Option<Verdict> {
    let (outcome, writes) = gate.judge(staged, siblings, run).ok()?;
    match outcome {
        // It may name a change of another document among its causes, of which nothing is known here.
        Outcome::Waits(_) | Outcome::Refused { .. } if run.log.document.kind().has_many_writers() => None,
        outcome => Some(Verdict { outcome, writes }),
    }
}

/// Stages a run that was judged, for those after it.
fn build_on(verdict: &Verdict, staged: &mut Staged<'_>, siblings: &mut Vec<Actor>) {
    let Outcome::Admitted(admitted) = &verdict.outcome else { return };
    siblings.retain(|sibling| !admitted.superseded.contains(sibling));
    if let Err(at) = siblings.binary_search(&admitted.actor) {
        siblings.insert(at, admitted.actor);
    }
    staged.append(verdict.writes.clone());
}
