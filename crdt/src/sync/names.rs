//! Numbers that stand for logs' names on one link, each side's own: four bytes a log, as long as the replica has it.

use std::collections::BTreeMap;

use super::devices::make_room;
use super::replica::{LogId, Logs};
use crate::change::LogName;

/// Most logs that a peer names in a session.
const NAMES_MAX: usize = 1 << 16;
const NONE: u32 = u32::MAX;

/// The names that were said and heard on a link.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// By log: the number under which the peer knows it.
    said: Vec<u32>,
    next: u32,
    /// By the peer's numbers: the log.
    heard: Vec<u32>,
    /// Names that were heard of logs that are not here (yet), by the peer's numbers.
    unknown: BTreeMap<u32, LogName>,
}

impl Names {
    /// The number under which the peer knows a log, or the one that it is to be given.
    pub(super) fn to_say(&self, log: LogId) -> (u32, bool) {
        let known = self.said.get(log.index()).copied().filter(|number| *number != NONE);
        (known.unwrap_or(self.next), known.is_some())
    }

    /// A log's name is said.
    pub(super) fn say(&mut self, log: LogId) {
        if self.said.len() <= log.index() {
            let more = log.index() + 1 - self.said.len();
            if self.said.capacity() <= log.index() {
                self.said.reserve_exact(more + self.said.len() / 8);
            }
            self.said.resize(log.index() + 1, NONE);
        }
        if self.said[log.index()] == NONE {
            self.said[log.index()] = self.next;
            self.next += 1;
        }
    }

    /// How many names were heard.
    pub(super) fn heard(&self) -> usize {
        self.heard.len()
    }

    /// The peer names a log; `known` where it is here. `Err` says how it broke the protocol.
    pub(super) fn hear(&mut self, number: u32, name: LogName, known: Option<LogId>) -> Result<(), &'static str> {
        if number as usize != self.heard.len() || self.heard.len() >= NAMES_MAX {
            return Err("a log's number is not the next one");
        }
        make_room(&mut self.heard);
        self.heard.push(known.map_or(NONE, |log| log.0));
        if known.is_none() {
            self.unknown.insert(number, name);
        }
        Ok(())
    }

    /// The name that stands behind a peer's number.
    pub(super) fn name(&self, number: u32, logs: &Logs) -> Option<LogName> {
        match *self.heard.get(number as usize)? {
            NONE => self.unknown.get(&number).cloned(),
            log => Some(logs.by_id(LogId(log)).name()),
        }
    }

    /// The name behind a number, where it is of a log that was not here.
    pub(super) fn unknown(&self, number: u32) -> Option<&LogName> {
        self.unknown.get(&number)
    }

    /// The log behind a number is here now.
    pub(super) fn came(&mut self, number: u32, log: LogId) {
        if self.unknown.remove(&number).is_some() {
            self.heard[number as usize] = log.0;
        }
    }

    /// A log is gone: its number may soon stand for another one.
    pub(super) fn gone(&mut self, log: LogId, name: &LogName) {
        if let Some(number) = self.said.get_mut(log.index()) {
            *number = NONE;
        }
        for (number, heard) in (0..).zip(&mut self.heard) {
            if *heard == log.0 {
                *heard = NONE;
                self.unknown.insert(number, name.clone());
            }
        }
    }
}
