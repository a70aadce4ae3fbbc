//! Real nodes on a [`Network`]: one process a node of the topology, members of one fleet.
//!
//! The first founds the fleet. Each other joins over the emulated network with a ticket of a neighbour that is up, so
//! nodes come up from neighbour to neighbour. Folders, logs and the person's keys lie in one folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use node::client::Client;
use rustix::process::{Pid, Signal, kill_process};

use self::order::{Order, founder};
use super::failure::Failure;
use super::host::bound;
use super::network::Network;
use super::quality::Bend;
use super::select;
use super::watch::Watch;
use crate::bench::machine;
use crate::bench::operator::Operator;
use crate::bench::process::{Guard, Program, greet, tail};
use crate::sim::topology::Topology;

mod order;

/// How long a node may take until it answers.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(20);
/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(10);
/// Most devices that join at once.
const JOINING_MAX: usize = 8;
/// How long a new fleet is waited for until all nodes agree.
const AGREE: Duration = Duration::from_secs(60);
/// Longest path of a Unix socket, bytes (unix(7)).
const SOCKET_BYTES_MAX: usize = 107;

/// What a node's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Running,
    /// It was sent SIGSTOP.
    Frozen,
    /// It ended, or was killed.
    Dead,
}

#[derive(Debug)]
struct Process {
    child: Guard,
    is_frozen: bool,
    started: Instant,
}

/// What a fleet is made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) topology: Topology,
    /// What is drawn (jitter, loss) is drawn from this.
    pub(crate) seed: u64,
    /// The program.
    pub(crate) program: PathBuf,
    /// What every node is run with besides, for instance `--log debug`.
    pub(crate) run_with: Vec<String>,
}

/// The nodes and their network. All processes end when it goes.
#[derive(Debug)]
pub(crate) struct Fleet {
    topology: Topology,
    program: Program,
    run_with: Vec<String>,
    folder: PathBuf,
    /// The fleet's id.
    id: String,
    /// Before the network, so that they are waited for while their threads live.
    processes: Vec<Option<Process>>,
    /// Whose network interface is down.
    unplugged: BTreeSet<usize>,
    network: Network,
}

impl Fleet {
    /// Starts a fleet in an empty folder, and returns when all nodes answer and, where the
    /// machine is fast enough for them, agree. `note` hears of the progress.
    pub(crate) async fn start(plan: Plan, folder: &Path, note: &dyn Fn(&str)) -> anyhow::Result<Fleet> {
        let Plan { topology, seed, program, run_with } = plan;
        check_sockets(&topology, folder)?;
        let network = Network::start(&topology, seed).map_err(Failure::from)?;
        let program = Program { path: program, keys: folder.join("keys") };
        let processes = topology.nodes.iter().map(|_| None).collect();
        let (folder, id) = (folder.to_owned(), String::new());
        let unplugged = BTreeSet::new();
        let mut fleet = Fleet { topology, program, run_with, folder, id, processes, unplugged, network };
        fleet.enrol(note).await?;
        match fleet.watch().agree(AGREE).await {
            Ok(_) => note("all nodes agree"),
            // A machine that is too small for so many nodes still has a lab.
            Err(differences) => {
                note(&format!("not all nodes agree after {} s, and {} differ", AGREE.as_secs(), differences.len()));
            }
        }
        Ok(fleet)
    }

    /// Founds the fleet on one node, and lets the others join from neighbour to neighbour.
    async fn enrol(&mut self, note: &dyn Fn(&str)) -> anyhow::Result<()> {
        let founder = founder(&self.topology);
        let first = &self.topology.nodes[founder];
        let words = ["init", "--name", &first.name, "--zone", &first.zone, "--no-passphrase"];
        self.id = self.program.run(&self.folder_of(founder), &words)?;
        self.processes[founder] = Some(self.spawn(founder, None)?);
        self.answers(founder).await?;
        let mut order = Order::new(&self.topology);
        let (mut joining, mut processes) = (FuturesUnordered::new(), Vec::new());
        let count = self.topology.nodes.len();
        for up in 1.. {
            while joining.len() < JOINING_MAX
                && let Some((node, inviter)) = order.next()
            {
                joining.push(self.join(node, inviter));
            }
            let Some(joined) = joining.next().await else { break };
            let (node, process) = joined?;
            order.is_up(node);
            if (up + 1) % 5 == 0 || up + 1 == count {
                note(&format!("{} of {count} nodes are up", up + 1));
            }
            // Those that still join borrow `self`.
            processes.push((node, process));
        }
        drop(joining);
        for (node, process) in processes {
            self.processes[node] = Some(process);
        }
        Ok(())
    }

    /// Lets a device join with a ticket of a neighbour, starts its node and waits until it answers.
    async fn join(&self, node: usize, inviter: usize) -> anyhow::Result<(usize, Process)> {
        let place = &self.topology.nodes[node];
        let (program, inviter) = (self.program.clone(), self.folder_of(inviter));
        let (name, zone) = (place.name.clone(), place.zone.clone());
        let invite = move || program.run(&inviter, &["member", "invite", "--name", &name, "--zone", &zone]);
        let ticket = tokio::task::spawn_blocking(invite).await??;
        let mut process = self.spawn(node, Some(&ticket))?;
        self.wait_for_answer(node, &mut process.child).await?;
        Ok((node, process))
    }

    fn spawn(&self, node: usize, ticket: Option<&str>) -> anyhow::Result<Process> {
        let log = self.log_of(node);
        let to_log =
            || -> anyhow::Result<Stdio> { Ok(std::fs::File::options().create(true).append(true).open(&log)?.into()) };
        let mut words = vec!["run", "--listen", "0.0.0.0", "--mdns", "false"];
        words.extend(self.run_with.iter().map(String::as_str));
        let mut command = self.program.dress(bound(&self.program.path), &self.folder_of(node), &words);
        if let Some(ticket) = ticket {
            command.env("FLEETSYNC_TICKET", ticket);
        }
        command.stdout(to_log()?).stderr(to_log()?);
        let child = Guard(self.network.spawn(node, command).context("fleetsync did not start")?);
        Ok(Process { child, is_frozen: false, started: Instant::now() })
    }

    async fn wait_for_answer(&self, node: usize, child: &mut Guard) -> anyhow::Result<()> {
        let start = Instant::now();
        let name = &self.topology.nodes[node].name;
        loop {
            if greet(&self.folder_of(node)).await.is_some() {
                return Ok(());
            }
            if let Some(status) = child.0.try_wait()? {
                bail!("{name} ended with {status}:\n{}", tail(&self.log_of(node)));
            }
            ensure!(start.elapsed() < START, "{name} does not answer:\n{}", tail(&self.log_of(node)));
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a node that was started answers.
    async fn answers(&mut self, node: usize) -> anyhow::Result<()> {
        let Some(mut process) = self.processes[node].take() else { return Ok(()) };
        let answers = self.wait_for_answer(node, &mut process.child).await;
        self.processes[node] = Some(process);
        answers
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The network, to be cut and bent by node numbers.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// The program and the person's keys.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// The operator who founded the fleet.
    pub(crate) fn operator(&self) -> anyhow::Result<Operator> {
        Operator::open(&self.program.keys, &self.id)
    }

    /// A node's data folder.
    pub(crate) fn folder_of(&self, node: usize) -> PathBuf {
        self.folder.join(&self.topology.nodes[node].name)
    }

    /// Where a node's process writes its log.
    pub(crate) fn log_of(&self, node: usize) -> PathBuf {
        self.folder.join(format!("{}.log", self.topology.nodes[node].name))
    }

    /// A connection to a node's API.
    pub(crate) async fn client(&self, node: usize) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.folder_of(node).join("api.sock")).await?)
    }

    /// What a node's process does, and its id.
    pub(crate) fn state(&mut self, node: usize) -> (State, Option<u32>) {
        let Some(process) = &mut self.processes[node] else { return (State::Dead, None) };
        match (process.child.0.try_wait(), process.is_frozen) {
            (Ok(None), true) => (State::Frozen, Some(process.child.0.id())),
            (Ok(None), false) => (State::Running, Some(process.child.0.id())),
            _ => (State::Dead, None),
        }
    }

    /// What a node has used of a core since it was started, percent.
    pub(crate) fn cpu_percent(&self, node: usize) -> Option<f64> {
        let process = self.processes[node].as_ref()?;
        let used_s = machine::cpu_s(process.child.0.id()).ok()?;
        Some(100.0 * used_s / process.started.elapsed().as_secs_f64())
    }

    /// All nodes, to be asked together.
    pub(crate) fn watch(&self) -> Watch {
        let nodes = self.topology.nodes.iter().enumerate();
        Watch::new(nodes.map(|(node, place)| (place.name.clone(), self.folder_of(node))))
    }

    fn signal(&mut self, node: usize, signal: Signal) -> anyhow::Result<()> {
        let (_, pid) = self.state(node);
        let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) else {
            let name = &self.topology.nodes[node].name;
            let failure = Failure::new(format!("{name} is not running"));
            return Err(failure.hint(format!("testnet lab start {name}")).into());
        };
        kill_process(pid, signal).context("a signal")
    }

    /// SIGSTOP: the process stands still, its sockets stay open.
    pub(crate) fn freeze(&mut self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::STOP)?;
        if let Some(process) = &mut self.processes[node] {
            process.is_frozen = true;
        }
        Ok(())
    }

    /// SIGCONT.
    pub(crate) fn thaw(&mut self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::CONT)?;
        if let Some(process) = &mut self.processes[node] {
            process.is_frozen = false;
        }
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self, node: usize) {
        self.processes[node] = None;
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(&mut self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::TERM)?;
        let start = Instant::now();
        while self.state(node).0 != State::Dead {
            ensure!(start.elapsed() < STOP, "{} does not stop", self.topology.nodes[node].name);
            tokio::time::sleep(POLL).await;
        }
        self.processes[node] = None;
        Ok(())
    }

    /// Starts a node that ended, and waits until it answers; nothing where it runs.
    pub(crate) async fn start_again(&mut self, node: usize) -> anyhow::Result<()> {
        if self.state(node).0 != State::Dead {
            return Ok(());
        }
        self.processes[node] = Some(self.spawn(node, None)?);
        self.answers(node).await
    }

    /// Cuts all lines between two selections; one way, only what goes from the first to the second. Returns how many.
    pub(crate) fn cut(&self, one: &str, other: &str, is_one_way: bool) -> Result<usize, Failure> {
        let pairs = select::pairs(&self.topology, one, other)?;
        for (a, b) in &pairs {
            match is_one_way {
                true => self.network.cut_one_way(*a, *b),
                false => self.network.cut(*a, *b),
            }
        }
        Ok(lines(&pairs))
    }

    /// Bends all lines between two selections; one way, only what goes from the first to the second. Returns how many.
    pub(crate) fn bend(&self, one: &str, other: &str, is_one_way: bool, bend: &Bend) -> Result<usize, Failure> {
        if let Some(fault) = bend.fault() {
            return Err(Failure::new("no line can be bent so").cause(fault).hint("testnet lab bend --help"));
        }
        let pairs = select::pairs(&self.topology, one, other)?;
        for (a, b) in &pairs {
            match is_one_way {
                true => self.network.bend_one_way(*a, *b, bend),
                false => self.network.bend(*a, *b, bend),
            }
        }
        Ok(lines(&pairs))
    }

    /// Undoes cuts and bends between two selections. Returns of how many lines.
    pub(crate) fn heal_between(&self, one: &str, other: &str) -> Result<usize, Failure> {
        let pairs = select::pairs(&self.topology, one, other)?;
        pairs.iter().for_each(|(a, b)| self.network.heal(*a, *b));
        Ok(lines(&pairs))
    }

    /// Takes the network interface of nodes down. Returns the nodes.
    pub(crate) fn unplug(&mut self, nodes: &str) -> anyhow::Result<Vec<usize>> {
        let chosen = select::nodes(&self.topology, nodes)?;
        for node in &chosen {
            self.network.plug(*node, false).context("an interface that goes down")?;
            self.unplugged.insert(*node);
        }
        Ok(chosen)
    }

    /// Brings it up again. Returns the nodes.
    pub(crate) fn plug(&mut self, nodes: &str) -> anyhow::Result<Vec<usize>> {
        let chosen = select::nodes(&self.topology, nodes)?;
        self.plug_in(chosen.iter().copied())?;
        Ok(chosen)
    }

    fn plug_in(&mut self, nodes: impl Iterator<Item = usize>) -> anyhow::Result<()> {
        for node in nodes {
            self.network.plug(node, true).context("an interface that comes up")?;
            self.unplugged.remove(&node);
        }
        Ok(())
    }

    pub(crate) fn is_unplugged(&self, node: usize) -> bool {
        self.unplugged.contains(&node)
    }

    /// Lets the routers before nodes forget their mappings. Returns the nodes that are behind one.
    pub(crate) fn rebind(&self, nodes: &str) -> Result<Vec<usize>, Failure> {
        let chosen = select::nodes(&self.topology, nodes)?;
        let behind: Vec<usize> = chosen.into_iter().filter(|node| self.network.rebind(*node)).collect();
        match behind.is_empty() {
            true => Err(Failure::new(format!("{nodes:?} means no node behind a router"))
                .cause("routers stand before the zones whose table in the topology says nat")
                .hint("testnet lab up behind-nat")),
            false => Ok(behind),
        }
    }

    /// Undoes every cut, bend, freeze and unplugging, and starts what ended. Returns the nodes that were started.
    pub(crate) async fn heal(&mut self) -> anyhow::Result<Vec<usize>> {
        for changed in self.network.changed() {
            self.network.heal(changed.from, changed.to);
        }
        self.plug_in(self.unplugged.clone().into_iter())?;
        let mut started = Vec::new();
        for node in 0..self.processes.len() {
            match self.state(node).0 {
                State::Running => {}
                State::Frozen => self.thaw(node)?,
                State::Dead => {
                    self.start_again(node).await?;
                    started.push(node);
                }
            }
        }
        Ok(started)
    }
}

/// How many lines pairs of nodes are; all with all are twice as many pairs.
fn lines(pairs: &[(usize, usize)]) -> usize {
    pairs.iter().map(|(a, b)| (a.min(b), a.max(b))).collect::<BTreeSet<_>>().len()
}

/// Fails early where a node's socket would have too long a path.
fn check_sockets(topology: &Topology, folder: &Path) -> Result<(), Failure> {
    let longest = topology.nodes.iter().map(|place| place.name.len()).max().unwrap_or(0);
    let bytes = folder.as_os_str().len() + 1 + longest + "/api.sock".len();
    if bytes > SOCKET_BYTES_MAX {
        return Err(Failure::new(format!("the lab's folder {} has too long a name", folder.display()))
            .cause(format!("a socket's path has at most {SOCKET_BYTES_MAX} bytes, and the longest here {bytes}"))
            .hint("testnet lab up lan-12 --dir /tmp/lab"));
    }
    Ok(())
}
