//! Real swarms on 127.0.0.1, on picked ports. Nothing sleeps: each test waits for a condition, with a deadline.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod abuse;
mod burst;
mod detour;
mod flow;
mod join;
mod net;
mod raw;
mod reach;
mod restart;
mod sessions;
