//! Logs in memory, against a map that keeps everything as it is.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::super::names::Names;
use super::*;
use crate::id::{ChainHash, FleetId};

const FLEET: FleetId = FleetId([9; 32]);

/// What may become of logs.
#[derive(Debug, Clone)]
enum Step {
    /// A log grows by so many changes.
    Grow(usize, u8),
    Store(usize),
    Remove(usize),
    /// The end of an input: numbers of logs that are gone are given to others.
    Forget,
    /// A link names a log, in both directions.
    Name(usize),
}

fn step(logs: usize) -> impl Strategy<Value = Step> {
    let log = 0..logs;
    prop_oneof![
        4 => (log.clone(), 0..5_u8).prop_map(|(log, by)| Step::Grow(log, by)),
        1 => log.clone().prop_map(Step::Store),
        2 => log.clone().prop_map(Step::Remove),
        1 => Just(Step::Forget),
        2 => log.prop_map(Step::Name),
    ]
}

/// Own documents in several epochs and incarnations, documents of others, parts, and an epoch that no row holds.
fn names() -> Vec<LogName> {
    let keys = [1, 2, 3].map(|number| Key([number; 32]));
    let mut names = Vec::new();
    for author in keys {
        let carrier = author.device();
        for kind in [Kind::Device, Kind::Link, Kind::Claim] {
            for (epoch, incarnation) in [(1, 7), (2, 7), (2, u64::MAX), (u64::MAX, 7)] {
                let document = DocumentName::of_device(kind, &carrier);
                names.push(LogName { document, epoch, author, carrier, incarnation });
            }
        }
        let part = format!("claim/{carrier}/gpu").parse().unwrap();
        let config = DocumentName::config("camera").unwrap();
        for (document, author) in [(part, author), (config.clone(), author), (config, Key([4; 32]))] {
            names.push(LogName { document, epoch: 1, author, carrier, incarnation: 7 });
        }
        // Somebody writes a document that is another device's: admission refuses it, a row does not lose it.
        let document = DocumentName::of_device(Kind::Device, &DeviceId([5; 32]));
        names.push(LogName { document, epoch: 1, author, carrier, incarnation: 7 });
    }
    names
}

#[derive(Default)]
struct Model {
    logs: BTreeMap<Actor, (LogName, u64, u64)>,
    heard: Vec<LogName>,
    said: BTreeMap<Actor, u32>,
    said_ever: u32,
}

fn check(logs: &Logs, link: &Names, model: &Model) {
    let listed: BTreeMap<Actor, (LogName, u64, u64)> =
        logs.iter().map(|log| (log.actor(), (log.name(), log.seq, log.stored))).collect();
    assert_eq!(listed, model.logs);
    assert_eq!((logs.len(), logs.changes()), (listed.len(), listed.values().map(|(_, seq, _)| seq).sum()));
    let mut documents: BTreeMap<DocumentName, Vec<Actor>> = BTreeMap::new();
    let mut carried: BTreeMap<DeviceId, BTreeSet<Actor>> = BTreeMap::new();
    for (actor, (name, seq, _)) in &model.logs {
        assert_eq!(logs.get(actor).map(|log| (log.name(), log.seq)), Some((name.clone(), *seq)));
        assert_eq!(logs.get(actor).map(|log| (log.kind(), *log.carrier())), Some((name.document.kind(), name.carrier)));
        documents.entry(name.document.clone()).or_default().push(*actor);
        carried.entry(name.carrier).or_default().insert(*actor);
    }
    assert_eq!((logs.documents(), logs.documents_len()), (documents.clone(), documents.len()));
    for name in names() {
        let siblings = documents.get(&name.document).cloned().unwrap_or_default();
        assert_eq!(logs.of_document(&name.document), siblings);
        let of_carrier: BTreeSet<Actor> = logs.carried_by(&name.carrier).map(|log| log.actor()).collect();
        assert_eq!(of_carrier, carried.get(&name.carrier).cloned().unwrap_or_default());
        let said = logs.get(&name.actor(&FLEET)).map(|log| link.to_say(log.id()));
        let known = model.said.get(&name.actor(&FLEET));
        assert_eq!(said.filter(|(_, is_known)| *is_known).map(|(number, _)| number), known.copied());
    }
    for (number, name) in (0..).zip(&model.heard) {
        assert_eq!(link.name(number, logs).as_ref(), Some(name));
    }
    let in_buckets: Vec<Actor> = std::iter::successors(logs.next_bucket(0), |bucket| logs.next_bucket(bucket + 1))
        .flat_map(|bucket| logs.in_bucket(bucket).map(move |log| (bucket, log.actor())))
        .inspect(|(bucket, actor)| assert_eq!(Item::Log(*actor).bucket(), *bucket))
        .map(|(_, actor)| actor)
        .collect();
    assert_eq!(in_buckets, logs.iter().map(|log| log.actor()).collect::<Vec<_>>());
}

fn apply(logs: &mut Logs, link: &mut Names, model: &mut Model, all: &[LogName], step: &Step) {
    match step {
        Step::Grow(log, by) => {
            let name = &all[*log];
            let actor = name.actor(&FLEET);
            let (_, seq, _) = model.logs.entry(actor).or_insert((name.clone(), 0, 0));
            *seq += u64::from(*by) + 1;
            let head = ChangeHash([*by; 32]);
            let (chain, log) = (ChainHash::START, name.clone());
            let record = LogRecord { log, seq: *seq, head, chain, max_op: 0, raw_bytes: 0, values_bytes: 0 };
            logs.set(actor, &record);
            assert_eq!(logs.get(&actor).map(|log| *log.head()), Some(head));
            logs.set_position(&actor, *seq);
        }
        Step::Store(log) => {
            let actor = all[*log].actor(&FLEET);
            if let Some((_, seq, stored)) = model.logs.get_mut(&actor) {
                let to = (*stored + 1).min(*seq);
                assert_eq!(logs.set_stored(&actor, to), Some(*stored));
                assert_eq!(logs.set_stored(&actor, 0), Some(to), "what is stored stays stored");
                *stored = to;
            }
        }
        Step::Remove(log) => {
            let actor = all[*log].actor(&FLEET);
            model.said.remove(&actor);
            assert_eq!(logs.remove(&actor), model.logs.remove(&actor).is_some());
        }
        Step::Forget => {
            for (id, name) in logs.take_gone() {
                link.gone(id, &name);
            }
        }
        Step::Name(log) => {
            let name = &all[*log];
            let known = logs.get(&name.actor(&FLEET)).map(|log| log.id());
            let number = u32::try_from(model.heard.len()).unwrap();
            link.hear(number, name.clone(), known).unwrap();
            model.heard.push(name.clone());
            if let Some(id) = known {
                link.say(id);
                let ever = &mut model.said_ever;
                model.said.entry(name.actor(&FLEET)).or_insert_with(|| std::mem::replace(ever, *ever + 1));
            }
            for (number, name) in (0..).zip(&model.heard) {
                if let Some(log) = logs.get(&name.actor(&FLEET)) {
                    link.came(number, log.id());
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn rows_and_names_are_what_a_map_says(steps in prop::collection::vec(step(names().len()), 1..60)) {
        let (all, mut logs, mut link, mut model) = (names(), Logs::default(), Names::default(), Model::default());
        for step in &steps {
            apply(&mut logs, &mut link, &mut model, &all, step);
            // Until links know, those that are gone are named by numbers that mean nothing.
            if logs.gone.is_empty() {
                check(&logs, &link, &model);
            }
        }
    }
}

#[test]
fn a_row_is_small() {
    assert!(size_of::<Row>() <= 96, "{}", size_of::<Row>());
}
