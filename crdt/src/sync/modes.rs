//! What one side of a link gets of each origin's changes, two bits an origin.

use std::collections::VecDeque;

use super::origins::Origin;

/// What a receiver asks of a link for an origin (PROTOCOL 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Changes, as soon as they are stored.
    Full,
    /// That there are changes.
    Digest,
    /// Nothing.
    Mute,
}

impl Mode {
    /// The number that stands for it in a frame, and in two bits; 0 stands for what holds of all others.
    pub(super) fn code(self) -> u8 {
        match self {
            Mode::Full => 1,
            Mode::Digest => 2,
            Mode::Mute => 3,
        }
    }

    pub(super) fn of_code(code: u8) -> Option<Mode> {
        match code {
            1 => Some(Mode::Full),
            2 => Some(Mode::Digest),
            3 => Some(Mode::Mute),
            _ => None,
        }
    }
}

const PER_BYTE: usize = 4;

/// A mode for each origin: its own, or the one of all others.
#[derive(Debug, Clone)]
pub(super) struct Modes {
    codes: Vec<u8>,
    others: Mode,
}

impl Modes {
    /// As a link starts: changes of the sender's own, digests of everything else.
    pub(super) fn new(sender: Origin) -> Modes {
        let mut modes = Modes::unknown();
        modes.set(sender, Mode::Full);
        modes
    }

    pub(super) fn of(&self, origin: Origin) -> Mode {
        let byte = self.codes.get(origin.index() / PER_BYTE).copied().unwrap_or(0);
        Mode::of_code(byte >> Modes::shift(origin) & 3).unwrap_or(self.others)
    }

    /// As a link starts whose sender is not known yet.
    pub(super) fn unknown() -> Modes {
        Modes { codes: Vec::new(), others: Mode::Digest }
    }

    /// Sets an origin's own mode; returns the one before.
    pub(super) fn set(&mut self, origin: Origin, mode: Mode) -> Mode {
        let before = self.of(origin);
        let (at, shift) = (origin.index() / PER_BYTE, Modes::shift(origin));
        if at >= self.codes.len() {
            self.codes.resize(at + 1, 0);
        }
        self.codes[at] = self.codes[at] & !(3 << shift) | mode.code() << shift;
        before
    }

    pub(super) fn others(&self) -> Mode {
        self.others
    }

    /// Sets the mode of all that have none of their own.
    pub(super) fn set_others(&mut self, mode: Mode) {
        self.others = mode;
    }

    fn shift(origin: Origin) -> usize {
        origin.index() % PER_BYTE * 2
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.codes.capacity()
    }
}

/// The newest of some things, each once.
#[derive(Debug, Clone)]
pub(super) struct Newest<T> {
    things: VecDeque<T>,
    most: usize,
}

impl<T: PartialEq> Newest<T> {
    /// Keeps `most` things.
    pub(super) fn new(most: usize) -> Newest<T> {
        Newest { things: VecDeque::new(), most }
    }

    pub(super) fn push(&mut self, thing: T) {
        if self.things.contains(&thing) {
            return;
        }
        if self.things.len() >= self.most {
            self.things.pop_front();
        }
        self.things.push_back(thing);
    }

    /// Takes those out that are chosen.
    pub(super) fn take(&mut self, is_chosen: impl Fn(&T) -> bool) -> Vec<T> {
        if !self.things.iter().any(&is_chosen) {
            return Vec::new();
        }
        let (chosen, rest): (Vec<T>, Vec<T>) = self.things.drain(..).partition(is_chosen);
        self.things.extend(rest);
        chosen
    }
}

/// What one side of a link wants of the other.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) modes: Modes,
    /// Origins by the number that they have in this session.
    pub(super) named: Vec<Origin>,
}

/// A set of numbers as bits, the lowest first, without zero bytes at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bitmap(pub(super) Vec<u8>);

impl Bitmap {
    pub(super) fn insert(&mut self, number: usize) {
        if number / 8 >= self.0.len() {
            self.0.resize(number / 8 + 1, 0);
        }
        self.0[number / 8] |= 1 << (number % 8);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let bits = |(at, byte): (usize, &u8)| {
            let byte = *byte;
            (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at * 8 + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_kept_apart() {
        let mut modes = Modes::new(Origin(5));
        assert_eq!(
            (modes.of(Origin(5)), modes.of(Origin(4)), modes.of(Origin(900))),
            (Mode::Full, Mode::Digest, Mode::Digest)
        );
        assert_eq!(modes.set(Origin(4), Mode::Full), Mode::Digest);
        modes.set(Origin(6), Mode::Mute);
        modes.set_others(Mode::Mute);
        let all: Vec<Mode> = (3..8).map(|number| modes.of(Origin(number))).collect();
        assert_eq!(all, [Mode::Mute, Mode::Full, Mode::Full, Mode::Mute, Mode::Mute]);
        assert_eq!(modes.set(Origin(4), Mode::Digest), Mode::Full);
        assert_eq!(modes.of(Origin(4)), Mode::Digest);
    }

    #[test]
    fn the_newest_are_kept_each_once() {
        let mut newest = Newest::new(3);
        [1, 2, 2, 3, 1, 4].into_iter().for_each(|thing| newest.push(thing));
        assert_eq!(newest.take(|thing| *thing > 9), [0; 0]);
        assert_eq!(newest.take(|thing| *thing > 2), [3, 4]);
        assert_eq!(newest.take(|_| true), [2]);
    }

    #[test]
    fn bits_go_both_ways() {
        let mut bits = Bitmap::default();
        assert!(bits.is_empty());
        [9, 0, 23, 9].into_iter().for_each(|number| bits.insert(number));
        assert_eq!(bits.0, [1, 2, 0x80]);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 9, 23]);
    }
}
