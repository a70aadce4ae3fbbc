//! What a fleet knows and how it converges, without any I/O.
//!
//! This crate is *pure*: no clock, no randomness, no files, no network, no threads. Time and seeds come in as
//! inputs, bytes and writes leave as effects, reads go through [`store::LogStore`]. The same code therefore runs in
//! the node, in the simulator and in the property tests.
//!
//! * [`schema`]: documents, paths, values and their limits
//! * [`statement`] and [`roster`]: signed facts about authority, and what follows from a set of them
//! * [`change`]: signed changes, logs and the hash chain that one signature vouches for
//! * [`verifier`]: the strict check of signatures
//! * [`raw`]: the guarded reader and the writer of raw Automerge changes
//! * [`admission`]: the gate that every change passes before it is stored
//! * [`store`]: the storage contract, its tables, keys and records
//! * [`view`]: what a reader sees of a document, conflicts included
//! * [`root`]: 32 bytes that are equal exactly where replicas are equal
//! * [`sync`]: the engine that decides what goes to whom, and its frames
#![deny(missing_docs, unreachable_pub)]

pub mod admission;
pub mod change;
#[cfg(test)]
mod fixture;
pub mod id;
pub mod index;
pub mod join;
pub mod raw;
pub mod root;
pub mod roster;
pub mod schema;
pub mod statement;
pub mod store;
pub mod sync;
pub mod ticket;
pub mod verifier;
pub mod view;
