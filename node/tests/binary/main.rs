//! Tests of the real binary, driven as a person drives it: processes, files, sockets, exit codes.
//!
//! `fleet` is the harness, `api` and `operator` are a client of the node's socket and a signer of changes, in which a
//! test can cut a write at any step.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

mod addresses;
mod api;
mod blobs;
mod convergence;
mod crash;
mod damage;
mod disk;
mod fleet;
mod hostile;
mod operator;
mod passphrase;
mod process;
mod random;
mod refusals;
mod rendering;
mod restored;
mod routes;
mod seeing;
mod signing;
mod supervised;
mod tickets;
