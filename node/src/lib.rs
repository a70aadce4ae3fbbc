//! A Fleetsync node: the composition root of the core, the mesh and the collectors, its API and its CLI.
//!
//! * `folder`: the data folder, its lock, the device's key
//! * [`store`]: RocksDB behind the core's storage contract
//! * [`judging`]: threads that judge waiting changes ahead of the engine
//! * `keys`: the person's keys, which never enter the daemon
//! * `agent`: the one task that owns the engine, and what it does with its effects
//! * `supervisor`: what the service manager is told
//! * `api` and [`client`]: HTTP/JSON on a Unix socket
//! * `cli`: what a person types
//! * `doctor`, `mesh`: what is wrong with a node, and drawings of the mesh; pure
#![deny(missing_docs, unreachable_pub)]

mod agent;
mod api;
mod blobs;
mod cli;
pub mod client;
mod clock;
mod doctor;
#[cfg(test)]
mod fixture;
mod folder;
mod identity;
pub mod judging;
mod keys;
mod mesh;
mod output;
mod settings;
pub mod store;
mod supervisor;
mod telemetry;

/// Runs the command line and returns its exit code (DESIGN 5).
pub fn main() -> std::process::ExitCode {
    cli::main()
}
