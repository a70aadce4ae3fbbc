//! What memory has of logs and documents: about 120 bytes a log, whatever its name is.
//!
//! A row has what differs from log to log. The names of devices' documents follow from kind and device, so a name is put
//! together where it is asked for. Rows lie in shelves in the order of the tree, where they are found by their actor and
//! listed by bucket; those of one carrier are chained.

use std::collections::BTreeMap;

use crate::change::LogName;
use crate::id::{Actor, ChangeHash, DeviceId, Key};
use crate::root::{BUCKETS, Item, log_value};
use crate::schema::{Class, DocumentName, Kind};
use crate::store::LogRecord;
use crate::sync::devices::{Devices, make_room};

/// Each holds the rows of so many buckets, ascending by bucket and actor.
const SHELF_BUCKETS: usize = 16;
const NONE: u32 = u32::MAX;

/// A log's number in this process; that of a log which is gone is given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogId(pub(crate) u32);

impl LogId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A log as it stands: what [`Log`] shows, taken out of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// The parts that name it.
    pub log: LogName,
    /// The last sequence number.
    pub seq: u64,
    /// Hash of the last change.
    pub head: ChangeHash,
}

#[derive(Debug, Clone)]
struct Row {
    actor: Actor,
    head: ChangeHash,
    seq: u64,
    position: u64,
    name: RowName,
    /// How many of its changes the store has not reported as written.
    unstored: u32,
    carrier: u32,
    /// The next log of that carrier, of those that are its own or of the others.
    next: u32,
    bucket: u16,
}

#[derive(Debug, Clone)]
enum RowName {
    /// A device writes its own document of a kind.
    OwnDocument {
        kind: Kind,
        epoch: u32,
        incarnation: u64,
    },
    Full(Box<LogName>),
}

#[derive(Debug, Clone)]
struct Carrier {
    /// Known once it carries a log of its own.
    key: Option<Key>,
    /// The first log of its own documents.
    own: u32,
    /// The first of its other logs, which may be many.
    others: u32,
}

impl Carrier {
    /// Where the chain begins that a row of this name is part of.
    fn first(&mut self, name: &RowName) -> &mut u32 {
        match name {
            RowName::OwnDocument { .. } => &mut self.own,
            RowName::Full(_) => &mut self.others,
        }
    }
}

/// All logs, by actor, bucket, carrier and document.
#[derive(Debug, Clone)]
pub struct Logs {
    rows: Vec<Row>,
    /// Rows that may be used again.
    free: Vec<u32>,
    /// Logs that are gone, whose rows are free once everyone knows.
    gone: Vec<(LogId, LogName)>,
    shelves: Vec<Vec<u32>>,
    /// The carriers' numbers, and what is known of them.
    devices: Devices,
    carriers: Vec<Carrier>,
    /// The logs of documents whose names do not follow from their carrier.
    named: BTreeMap<DocumentName, Vec<u32>>,
    len: usize,
    changes: u64,
}

impl Default for Logs {
    fn default() -> Self {
        Logs {
            rows: Vec::new(),
            free: Vec::new(),
            gone: Vec::new(),
            shelves: vec![Vec::new(); BUCKETS / SHELF_BUCKETS],
            devices: Devices::default(),
            carriers: Vec::new(),
            named: BTreeMap::new(),
            len: 0,
            changes: 0,
        }
    }
}

/// A log in memory.
#[derive(Debug, Clone, Copy)]
pub struct Log<'a> {
    logs: &'a Logs,
    row: &'a Row,
    number: u32,
    /// The last sequence number.
    pub seq: u64,
    /// Up to where the store has reported it as written; only that is told to others.
    pub stored: u64,
}

impl<'a> Log<'a> {
    pub(crate) fn id(&self) -> LogId {
        LogId(self.number)
    }

    /// Its id in frames and in the store.
    pub fn actor(&self) -> Actor {
        self.row.actor
    }

    /// Hash of the last change.
    pub fn head(&self) -> &'a ChangeHash {
        &self.row.head
    }

    /// The device that carries it.
    pub fn carrier(&self) -> &'a DeviceId {
        self.logs.devices.id(self.row.carrier)
    }

    /// Where it stands in the order of admission.
    pub(crate) fn position(&self) -> u64 {
        self.row.position
    }

    /// What its document is about.
    pub fn kind(&self) -> Kind {
        match &self.row.name {
            RowName::OwnDocument { kind, .. } => *kind,
            RowName::Full(name) => name.document.kind(),
        }
    }

    /// How urgent its changes are.
    pub(crate) fn class(&self) -> Class {
        self.kind().class()
    }

    /// The parts that name it.
    pub fn name(&self) -> LogName {
        match &self.row.name {
            RowName::Full(name) => LogName::clone(name),
            RowName::OwnDocument { kind, epoch, incarnation } => {
                let key = self.logs.carriers[self.row.carrier as usize].key;
                LogName {
                    document: DocumentName::of_device(*kind, self.carrier()),
                    epoch: u64::from(*epoch),
                    author: key.expect("a carrier of own logs has a key"),
                    carrier: *self.carrier(),
                    incarnation: *incarnation,
                }
            }
        }
    }

    /// What is known of it, taken out of memory.
    pub fn state(&self) -> LogState {
        LogState { log: self.name(), seq: self.seq, head: self.row.head }
    }

    /// Four bytes of the last change's hash; 0 while that is not stored yet.
    pub(crate) fn head_digest(&self) -> u32 {
        let [a, b, c, d, ..] = self.row.head.0;
        if self.stored == self.seq { u32::from_be_bytes([a, b, c, d]).max(1) } else { 0 }
    }

    /// Whether a peer's digest of the same number is of another change: one of the two logs forked.
    pub(crate) fn differs(&self, digest: u32) -> bool {
        let own = self.head_digest();
        own != 0 && digest != 0 && own != digest
    }

    /// Its item in the tree, with its value.
    pub(crate) fn item(&self) -> (Item, [u8; 40]) {
        (Item::Log(self.row.actor), log_value(self.seq, &self.row.head))
    }
}

/// The device whose document of its kind this is, and no part of it.
fn device_of_whole(document: &DocumentName) -> Option<DeviceId> {
    document.device().filter(|_| document.name().len() == 2 * size_of::<DeviceId>())
}

impl RowName {
    fn of(log: &LogName) -> RowName {
        let is_own = device_of_whole(&log.document) == Some(log.carrier) && log.author.device() == log.carrier;
        match u32::try_from(log.epoch) {
            Ok(epoch) if is_own => {
                RowName::OwnDocument { kind: log.document.kind(), epoch, incarnation: log.incarnation }
            }
            _ => RowName::Full(Box::new(log.clone())),
        }
    }
}

impl Logs {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Changes in all of them.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// A log by its actor.
    pub fn get(&self, actor: &Actor) -> Option<Log<'_>> {
        let bucket = Item::Log(*actor).bucket();
        let shelf = &self.shelves[usize::from(bucket) / SHELF_BUCKETS];
        self.place(shelf, bucket, actor).ok().map(|at| self.log(shelf[at]))
    }

    /// The log of a number that was given and not taken back.
    pub(in crate::sync) fn by_id(&self, id: LogId) -> Log<'_> {
        self.log(id.0)
    }

    /// All logs, in the order of the tree.
    pub fn iter(&self) -> impl Iterator<Item = Log<'_>> {
        self.shelves.iter().flatten().map(|number| self.log(*number))
    }

    /// The logs of a bucket, ascending.
    pub(crate) fn in_bucket(&self, bucket: u16) -> impl Iterator<Item = Log<'_>> {
        let shelf = &self.shelves[usize::from(bucket) / SHELF_BUCKETS];
        let from = shelf.partition_point(|number| self.row(*number).bucket < bucket);
        let of_bucket = shelf[from..].iter().take_while(move |number| self.row(**number).bucket == bucket);
        of_bucket.map(|number| self.log(*number))
    }

    /// The first bucket from `from` on that has logs.
    pub(crate) fn next_bucket(&self, from: u16) -> Option<u16> {
        let first = usize::from(from) / SHELF_BUCKETS;
        let rows = self.shelves.get(first..)?.iter().flatten();
        rows.map(|number| self.row(*number).bucket).find(|bucket| *bucket >= from)
    }

    /// The logs that a device carries.
    pub(crate) fn carried_by<'a>(&'a self, device: &DeviceId) -> impl Iterator<Item = Log<'a>> + use<'a> {
        let carrier = self.devices.find(device).map(|carrier| &self.carriers[carrier as usize]);
        carrier.into_iter().flat_map(|carrier| [carrier.own, carrier.others]).flat_map(|first| self.chain(first))
    }

    /// The logs of the carrier's own documents.
    fn own_of(&self, device: &DeviceId) -> impl Iterator<Item = Log<'_>> {
        let carrier = self.devices.find(device).map(|carrier| &self.carriers[carrier as usize]);
        carrier.into_iter().flat_map(|carrier| self.chain(carrier.own))
    }

    /// The logs of a document, ascending.
    pub fn of_document(&self, document: &DocumentName) -> Vec<Actor> {
        let named = self.named.get(document).into_iter().flatten().map(|number| self.log(*number));
        let mut actors: Vec<Actor> = named.map(|log| log.actor()).collect();
        if let Some(device) = device_of_whole(document) {
            let of_kind = self.own_of(&device).filter(|log| log.kind() == document.kind());
            actors.extend(of_kind.map(|log| log.actor()));
        }
        actors.sort_unstable();
        actors
    }

    /// All documents with their logs, ascending.
    pub fn documents(&self) -> BTreeMap<DocumentName, Vec<Actor>> {
        let mut documents: BTreeMap<DocumentName, Vec<Actor>> = BTreeMap::new();
        for log in self.iter() {
            documents.entry(log.name().document).or_default().push(log.actor());
        }
        documents.values_mut().for_each(|actors| actors.sort_unstable());
        documents
    }

    /// How many documents there are.
    pub fn documents_len(&self) -> usize {
        let own_kinds = |carrier: &Carrier| {
            self.chain(carrier.own).fold(0_u32, |kinds, log| kinds | 1 << log.kind() as u32).count_ones() as usize
        };
        let is_named_only =
            |(document, numbers): &(&DocumentName, &Vec<u32>)| self.of_document(document).len() == numbers.len();
        self.carriers.iter().map(own_kinds).sum::<usize>() + self.named.iter().filter(is_named_only).count()
    }

    /// Takes over what a store's record says of a log; all that it has more than before is not stored yet.
    pub(super) fn set(&mut self, actor: Actor, record: &LogRecord) {
        let bucket = Item::Log(actor).bucket();
        let at = usize::from(bucket) / SHELF_BUCKETS;
        let place = self.place(&self.shelves[at], bucket, &actor);
        let number = match place {
            Ok(place) => self.shelves[at][place],
            Err(place) => {
                let number = self.add(actor, bucket, &record.log);
                make_room(&mut self.shelves[at]);
                self.shelves[at].insert(place, number);
                number
            }
        };
        let row = &mut self.rows[number as usize];
        self.changes += record.seq - row.seq;
        row.unstored = u32::try_from(u64::from(row.unstored) + record.seq - row.seq).unwrap_or(u32::MAX);
        (row.seq, row.head) = (record.seq, record.head);
    }

    /// A row for a log that is new; it stands on no shelf yet.
    fn add(&mut self, actor: Actor, bucket: u16, log: &LogName) -> u32 {
        let carrier = self.devices.intern(&log.carrier);
        if self.carriers.len() < self.devices.len() {
            make_room(&mut self.carriers);
            self.carriers.push(Carrier { key: None, own: NONE, others: NONE });
        }
        let name = RowName::of(log);
        let of_carrier = &mut self.carriers[carrier as usize];
        if matches!(name, RowName::OwnDocument { .. }) {
            of_carrier.key = Some(log.author);
        }
        let next = *of_carrier.first(&name);
        let row =
            Row { actor, head: ChangeHash([0; 32]), seq: 0, position: 0, name, unstored: 0, carrier, next, bucket };
        let number = match self.free.pop() {
            Some(number) => {
                self.rows[number as usize] = row;
                number
            }
            None => {
                make_room(&mut self.rows);
                self.rows.push(row);
                u32::try_from(self.rows.len() - 1).expect("there are fewer than 2^32 logs")
            }
        };
        let row = &self.rows[number as usize];
        *self.carriers[carrier as usize].first(&row.name) = number;
        if let RowName::Full(_) = &self.row(number).name {
            self.named.entry(log.document.clone()).or_default().push(number);
        }
        self.len += 1;
        number
    }

    /// Takes a log out. Its number is given to no other one until [`Logs::take_gone`] was called.
    /// Returns whether it was there.
    pub(super) fn remove(&mut self, actor: &Actor) -> bool {
        let Some(log) = self.get(actor) else { return false };
        let (name, seq, number, bucket) = (log.name(), log.seq, log.number, log.row.bucket);
        let at = usize::from(bucket) / SHELF_BUCKETS;
        if let Ok(place) = self.place(&self.shelves[at], bucket, actor) {
            self.shelves[at].remove(place);
        }
        let row = &self.rows[number as usize];
        let (first, next) = (self.carriers[row.carrier as usize].first(&row.name), row.next);
        if *first == number {
            *first = next;
        } else {
            let first = *first;
            let before = self.chain(first).find(|log| log.row.next == number).map(|log| log.number);
            before.into_iter().for_each(|before| self.rows[before as usize].next = next);
        }
        if let Some(numbers) = self.named.get_mut(&name.document) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.named.remove(&name.document);
            }
        }
        self.len -= 1;
        self.changes -= seq;
        self.gone.push((LogId(number), name));
        true
    }

    /// Logs that are gone since the last time; their numbers may be given to others from now on.
    pub(in crate::sync) fn take_gone(&mut self) -> Vec<(LogId, LogName)> {
        self.free.extend(self.gone.iter().map(|(id, _)| id.0));
        std::mem::take(&mut self.gone)
    }

    /// The store has reported a log as written up to a number; where it stood before.
    pub(in crate::sync) fn set_stored(&mut self, actor: &Actor, seq: u64) -> Option<u64> {
        let log = self.get(actor)?;
        let (number, before) = (log.number, log.stored);
        let row = &mut self.rows[number as usize];
        row.unstored = row.unstored.min(u32::try_from(row.seq.saturating_sub(seq)).unwrap_or(u32::MAX));
        Some(before)
    }

    /// Puts a log elsewhere in the order of admission; where it stood before.
    pub(super) fn set_position(&mut self, actor: &Actor, position: u64) -> Option<u64> {
        let number = self.get(actor)?.number;
        Some(std::mem::replace(&mut self.rows[number as usize].position, position))
    }

    /// The logs of a carrier from this one on.
    fn chain(&self, first: u32) -> impl Iterator<Item = Log<'_>> {
        let known = |number: u32| (number != NONE).then(|| self.log(number));
        std::iter::successors(known(first), move |log| known(log.row.next))
    }

    fn row(&self, number: u32) -> &Row {
        &self.rows[number as usize]
    }

    fn log(&self, number: u32) -> Log<'_> {
        let row = self.row(number);
        Log { logs: self, row, number, seq: row.seq, stored: row.seq - u64::from(row.unstored) }
    }

    fn place(&self, shelf: &[u32], bucket: u16, actor: &Actor) -> Result<usize, usize> {
        shelf.binary_search_by(|number| {
            let row = self.row(*number);
            (row.bucket, &row.actor).cmp(&(bucket, actor))
        })
    }
}

#[cfg(test)]
mod tests;
