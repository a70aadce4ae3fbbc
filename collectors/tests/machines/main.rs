//! Machines of files, read through the public door: laid out by a test, replayed, and this one.

#![allow(clippy::unwrap_used)]

mod faults;
mod fixture;
mod replays;
mod sources;
