//! `testnet lab`: the real program as many processes on one machine, over a network that can be cut and bent.
//!
//! Each node of a topology runs in a network namespace of its own, and one thread carries packets between them as the
//! topology says. A scenario does things to such a fleet while operators write, and judges at the end.
//!
//! * [`emulation`], [`quality`]: what becomes of packets on lines; pure
//! * [`translate`]: routers between private addresses and the others; pure
//! * [`host`], [`forward`], [`network`]: namespaces, devices, and the thread in between
//! * [`fleet`], [`watch`]: real nodes on such a network, for the lab and for benches
//! * [`scenario`], [`play`], [`writer`]: steps, writes, and the verdict
//! * [`folder`], [`serve`], [`control`], [`verbs`], [`show`]: a lab that stays up, and how a person acts on it

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::quality::Bend;
use crate::bench::Format;

mod control;
mod emulation;
mod failure;
pub(crate) mod fleet;
mod folder;
mod forward;
pub(crate) mod host;
pub(crate) mod network;
mod play;
pub(crate) mod quality;
mod scenario;
mod select;
mod serve;
mod show;
mod translate;
mod verbs;
pub(crate) mod watch;
mod writer;

/// `lab`
#[derive(Args)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    verb: Verb,
    /// The lab's folder [default: fleetsync-lab in XDG_RUNTIME_DIR, else /tmp/fleetsync-lab-UID]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
}

/// The verbs. Nodes are told by NAME, `zone:NAME`, `#NUMBER`, `part:1/2` (the first half), or `*` for all (beside another:
/// all others).
#[derive(Subcommand)]
enum Verb {
    /// Say whether this machine can hold a lab; exit code 77 when it cannot
    Check,
    /// Bring a lab up; needs root
    Up(UpArgs),
    #[command(hide = true)]
    Serve(UpArgs),
    /// Play a scenario on the lab, or on one of its own where none is up; exit code 1 when what must hold does not
    Run(RunArgs),
    /// Let nothing pass between nodes
    Cut {
        #[command(flatten)]
        between: Between,
    },
    /// Change what the lines between nodes are like; what is left out stays as it is
    Bend {
        #[command(flatten)]
        between: Between,
        #[command(flatten)]
        bend: BendArgs,
    },
    /// Undo every cut, bend, freeze and unplugging, and start what was killed; with A and B only cuts and bends between them
    Heal {
        /// The nodes on one side
        #[arg(value_name = "A", requires = "other")]
        one: Option<String>,
        /// Those on the other
        #[arg(value_name = "B")]
        other: Option<String>,
    },
    /// Let nodes stand still (SIGSTOP)
    Freeze(Nodes),
    /// Let them go on (SIGCONT)
    Thaw(Nodes),
    /// Kill nodes (SIGKILL)
    Kill(Nodes),
    /// Start nodes that were killed
    Start(Nodes),
    /// Take the network interface of nodes down
    Unplug(Nodes),
    /// Bring it up again
    Plug(Nodes),
    /// Let the routers before nodes forget their mappings of addresses, as when they start again
    Rebind(Nodes),
    /// What the nodes do, what is cut or bent, and what became of packets
    Ps {
        /// The form of output
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// A shell in a node's network, in which `fleetsync` means that node
    Shell {
        /// The node
        #[arg(value_name = "NODE")]
        node: String,
        /// A command instead of a shell
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// End the lab and remove its folder
    Down,
}

#[derive(Args)]
struct UpArgs {
    /// A topology: a preset's name (lan-12, fleet-12-4z, lab-25, glomers-25, …) or a file
    #[arg(value_name = "FILE")]
    topology: String,
    #[command(flatten)]
    with: With,
}

#[derive(Args)]
struct RunArgs {
    /// partition, rolling-restart, three-ways, freeze, behind-nat, interfaces, or a file
    scenario: String,
    /// Without a lab that is up: this topology instead of the scenario's
    #[arg(long, value_name = "FILE")]
    topology: Option<String>,
    #[command(flatten)]
    with: With,
}

#[derive(Args)]
struct With {
    /// What is drawn is drawn from this
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Only the first nodes of the topology
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// What every node is run with besides, a word each time: --run-with=--log --run-with=debug
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    run_with: Vec<String>,
    /// The program [default: FLEETSYNC, else fleetsync beside this program]
    #[arg(long, value_name = "PATH", env = "FLEETSYNC")]
    fleetsync: Option<PathBuf>,
}

#[derive(Args)]
struct Nodes {
    /// NAME, zone:NAME, '#NUMBER', part:1/2 or '*'
    #[arg(value_name = "NODES")]
    nodes: String,
}

#[derive(Args)]
struct Between {
    /// The nodes on one side: NAME, zone:NAME, '#NUMBER', part:1/2 or '*'
    #[arg(value_name = "A")]
    one: String,
    /// Those on the other; '*' for everyone else
    #[arg(value_name = "B")]
    other: String,
    /// Only what goes from A to B
    #[arg(long)]
    one_way: bool,
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct BendArgs {
    /// One way
    #[arg(long, value_name = "MS")]
    delay_ms: Option<f64>,
    /// As much more at most, evenly
    #[arg(long, value_name = "MS")]
    jitter_ms: Option<f64>,
    /// Lost packets in a hundred
    #[arg(long, value_name = "PERCENT")]
    loss_percent: Option<f64>,
    /// Each way; 0 for no limit
    #[arg(long, value_name = "MBIT")]
    rate_mbit: Option<f64>,
    /// The delay and the jitter, so many times
    #[arg(long, value_name = "TIMES")]
    rtt_times: Option<f64>,
    /// Longest packet; longer ones vanish without a word. 0 for no limit
    #[arg(long, value_name = "BYTES")]
    mtu_bytes: Option<u32>,
}

impl BendArgs {
    fn bend(&self) -> Bend {
        let BendArgs { delay_ms, jitter_ms, loss_percent, rate_mbit, rtt_times, mtu_bytes } = *self;
        Bend { delay_ms, jitter_ms, loss_percent, rate_mbit, rtt_times, mtu_bytes }
    }
}

/// Does a verb.
pub(crate) fn run(args: LabArgs) -> ExitCode {
    let folder = args.dir.unwrap_or_else(folder::default_path);
    match verbs::act(args.verb, &folder) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(failure::NEGATIVE),
        Err(failure) => ExitCode::from(failure.report()),
    }
}
