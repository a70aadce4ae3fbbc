//! The same system at several fidelities. Today: benchmarks on real `fleetsync` processes.
//!
//! * `bench`: the tables of the numbers that were promised, each with what the machine itself needs beside it

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;

/// Tests and measures fleets of real nodes.
#[derive(Parser)]
#[command(name = "testnet", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure; exit code 1 when a number misses its target
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

fn main() -> ExitCode {
    let Cli { command: Command::Bench(command) } = Cli::parse();
    match bench::run(command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            bench::note(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}
