//! The fleet of the bench in the lab: what is broken, and what is seen of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use node::client::{Client, ClientError};
use serde_json::json;

use super::asking::Asking;
use crate::bench::note;
use crate::bench::operator::Operator;
use crate::bench::process::PATIENCE;
use crate::bench::spread::{Question, watch};
use crate::lab::fleet::{Fleet, Plan};
use crate::lab::quality::Bend;
use crate::sim::topology::Topology;

const CONFIG: &str = "config/bench";
/// Who asks, and who is asked and writes.
pub(super) const ASKER: &str = "leaf-0";
pub(super) const WRITER: &str = "leaf-1";
/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(2);
/// Answers that came without a pause before a fault.
const STEADY: Duration = Duration::from_millis(400);

/// What happens to the hub over which the asker reaches the writer, or to a link of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// The hub stands still (SIGSTOP)
    Frozen,
    /// Nothing passes between a leaf and the hub
    Cut,
    /// Nothing passes from one of them to the other
    OneWay,
    /// The hub is killed (SIGKILL)
    Killed,
    /// 30 % of the packets between a leaf and the hub are lost, either way
    Lossy,
    /// The link between them takes ten times as long
    Slow,
}

impl Fault {
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::Frozen => "transit node frozen",
            Fault::Killed => "transit node killed",
            Fault::Cut => "link cut",
            Fault::OneWay => "link cut one way",
            Fault::Lossy => "30 % loss",
            Fault::Slow => "RTT x 10",
        }
    }

    /// Whether the link still carries what goes over it.
    pub(super) fn is_soft(self) -> bool {
        matches!(self, Fault::Lossy | Fault::Slow)
    }

    fn stops_the_hub(self) -> bool {
        matches!(self, Fault::Frozen | Fault::Killed)
    }
}

/// What is broken of the path that questions take.
#[derive(Debug, Clone)]
pub(super) struct Broken {
    /// The node that stands still or dies.
    pub(super) hub: String,
    /// The link that fails, the end that is nearer to the asker first.
    pub(super) link: [String; 2],
}

impl Broken {
    /// The first link of the path, or, in every other trial, the last one.
    pub(super) fn of(path: &[String], trial: u64) -> Option<Broken> {
        let is_first = trial.is_multiple_of(2);
        let [near, far] = if is_first { path.first_chunk()? } else { path.last_chunk::<2>()? };
        let hub = if is_first { far } else { near };
        Some(Broken { hub: hub.clone(), link: [near.clone(), far.clone()] })
    }
}

/// The fleet, with a connection to each node's API.
pub(super) struct Ground {
    fleet: Fleet,
    clients: Vec<Client>,
    operator: Operator,
    /// Writes that were acknowledged.
    pub(super) written: u64,
}

impl Ground {
    pub(super) async fn start(program: &Path, folder: &Path) -> anyhow::Result<Ground> {
        let topology = Topology::load("failover", 1)?;
        let plan = Plan { topology, seed: 1, program: program.to_owned(), run_with: Vec::new() };
        let fleet = Fleet::start(plan, folder, &note).await?;
        let operator = fleet.operator()?;
        let mut clients = Vec::new();
        for node in 0..fleet.topology().nodes.len() {
            clients.push(fleet.client(node).await?);
        }
        Ok(Ground { fleet, clients, operator, written: 0 })
    }

    fn node(&self, name: &str) -> anyhow::Result<usize> {
        self.fleet.topology().nodes.iter().position(|place| place.name == name).with_context(|| format!("no {name}"))
    }

    /// Asks the asker for the writer, until the result goes.
    pub(super) fn asking(&self) -> anyhow::Result<Asking> {
        let socket = self.fleet.folder_of(self.node(ASKER)?).join("api.sock");
        Ok(Asking::start(socket, format!("/v1/ping/{WRITER}")))
    }

    /// The first hops of a leaf's ways to the other, the one that is taken first.
    async fn ways(&mut self, from: &str, to: &str) -> anyhow::Result<Vec<String>> {
        let node = self.node(from)?;
        let route = match self.clients[node].get(&format!("/v1/routes/{to}")).await {
            // It does not know of the device yet.
            Err(ClientError::Problem { status: 404, .. }) => return Ok(Vec::new()),
            route => route?,
        };
        let ways = route["ways"].as_array().context("a route without ways")?;
        Ok(ways.iter().filter_map(|way| way["via"].as_str()).map(str::to_owned).collect())
    }

    /// Waits until both leaves have two ways to each other, and answers come without a pause.
    pub(super) async fn is_steady(&mut self, asking: &Asking) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut since = start;
        loop {
            let ways = [self.ways(ASKER, WRITER).await?, self.ways(WRITER, ASKER).await?];
            let is_quiet = asking.longest_silence(since) > STEADY / 2;
            if ways.iter().any(|ways| ways.len() < 2) || is_quiet {
                since = Instant::now();
            }
            if since.elapsed() > STEADY && asking.last().is_some_and(|(at, _)| at.elapsed() < STEADY / 2) {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "the leaves have no two ways to each other: {ways:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Breaks a link of the path that questions take, or the hub behind it.
    pub(super) fn break_it(&mut self, fault: Fault, broken: &Broken, trial: u64) -> anyhow::Result<()> {
        let [near, far] = [self.node(&broken.link[0])?, self.node(&broken.link[1])?];
        let hub = self.node(&broken.hub)?;
        let network = self.fleet.network();
        match fault {
            Fault::Frozen => self.fleet.freeze(hub)?,
            Fault::Killed => self.fleet.kill(hub),
            Fault::Cut => network.cut(near, far),
            Fault::OneWay if (trial / 2).is_multiple_of(2) => network.cut_one_way(near, far),
            Fault::OneWay => network.cut_one_way(far, near),
            Fault::Lossy => network.bend(near, far, &Bend::loss(30.0)),
            Fault::Slow => network.bend(near, far, &Bend { rtt_times: Some(10.0), ..Bend::default() }),
        }
        Ok(())
    }

    pub(super) async fn mend(&mut self) -> anyhow::Result<()> {
        for node in self.fleet.heal().await? {
            self.clients[node] = self.fleet.client(node).await?;
        }
        Ok(())
    }

    /// Writes at the writer, and waits until all others that run have it; when, since `start`.
    pub(super) async fn change(&mut self, fault: Fault, hub: &str, start: Instant) -> anyhow::Result<Duration> {
        let (writer, hub) = (self.node(WRITER)?, self.node(hub)?);
        let value = self.written + 1;
        self.operator.set(&mut self.clients[writer], CONFIG, "gain", value).await?;
        self.written = value;
        let question = Question {
            resource: format!("/v1/document?document={CONFIG}&path=gain"),
            pointer: "/values/gain/value".to_owned(),
        };
        let others = self.clients.iter_mut().enumerate();
        let others = others.filter(|(node, _)| *node != writer && !(fault.stops_the_hub() && *node == hub));
        let seen = watch(others.map(|(_, client)| client), &question, &json!(value), start).await?;
        Ok(seen.all())
    }

    /// How many changes the document has on each node: as many as were acknowledged, once each.
    pub(super) async fn has_each_write_once(&mut self) -> anyhow::Result<()> {
        for (node, client) in self.clients.iter_mut().enumerate() {
            let log = client.get(&format!("/v1/document/log?document={CONFIG}")).await?;
            let changes = log.as_array().context("a log is a list")?.len() as u64;
            ensure!(changes == self.written, "node {node} has {changes} changes of {} acknowledged ones", self.written);
        }
        Ok(())
    }
}
