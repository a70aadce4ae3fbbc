//! The same system at several fidelities.
//!
//! * `sim`: fleets in virtual time, with every fault that we can name, and oracles that watch them
//! * `trace`: how a change went through a simulated fleet
//! * `lab`: the real program as many processes on one machine, over a network that can be cut and bent
//! * `bench`: the tables of the numbers that were promised, each with what the machine itself needs beside it

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod lab;
mod sim;

/// Tests and measures fleets of real nodes.
#[derive(Parser)]
#[command(name = "testnet", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Simulate fleets; exit code 1 when something that must hold was breached
    Sim(sim::SimArgs),
    /// Print how a change reached every node of a simulated fleet
    Trace(sim::TraceArgs),
    /// Run fleets of the real program on one machine, over a network that can be cut and bent; needs root
    Lab(lab::LabArgs),
    /// Measure; exit code 1 when a number misses its target
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Sim(args) => sim::simulate(&args),
        Command::Trace(args) => sim::show_trace(&args),
        Command::Lab(args) => return lab::run(args),
        Command::Bench(command) => bench::run(command),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            bench::note(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}
