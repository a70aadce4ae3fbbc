//! `bench lab`: whether the lab's network is what it was asked to be, and what it costs; needs root.
//!
//! Datagrams go from one namespace to another over lines of which the delay, the loss and the rate are known.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::report::{Report, Row, median, quantile};
use super::{Format, machine, note};
use crate::lab::network::Network;
use crate::lab::quality::Bend;
use crate::sim::topology::{Line, Place, Topology};

/// Nodes of the network; two of them talk.
const NODES: usize = 25;
const DELAY_US: u64 = 20_000;
const PORT: u16 = 7;
/// Datagrams of which the delay is measured, one at a time.
const TIMED: usize = 400;
/// Datagrams of which some are lost.
const COUNTED: u64 = 4_000;
/// For how long as many as possible are sent.
const FLOOD: Duration = Duration::from_secs(3);
/// After which nothing more comes.
const SILENCE: Duration = Duration::from_millis(500);

/// `bench lab`
#[derive(Args)]
pub(crate) struct LabArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
}

/// Two nodes of a network in which all are linked.
struct Ground {
    network: Network,
    near: UdpSocket,
    far: UdpSocket,
}

impl Ground {
    fn start() -> anyhow::Result<Ground> {
        let place = |node| Place { name: format!("lab-{node}"), zone: "lab".to_owned(), nat: None };
        let pairs = (0..NODES).flat_map(|a| (a + 1..NODES).map(move |b| (a, b)));
        let line = |ends| Line { ends, delay_us: DELAY_US, jitter_us: 0, rate: 0, loss_ppm: 0 };
        let topology = Topology {
            name: "bench".to_owned(),
            nodes: (0..NODES).map(place).collect(),
            lines: pairs.map(line).collect(),
        };
        let network = Network::start(&topology, 1)?;
        let (near, far) = (network.udp(0, PORT)?, network.udp(1, PORT)?);
        near.connect((network.home(1).address, PORT))?;
        far.connect((network.home(0).address, PORT))?;
        near.set_read_timeout(Some(SILENCE))?;
        far.set_read_timeout(Some(SILENCE))?;
        Ok(Ground { network, near, far })
    }

    /// How long each of some datagrams takes, one at a time, milliseconds.
    fn delays(&self) -> anyhow::Result<Vec<f64>> {
        let mut delays = Vec::with_capacity(TIMED);
        for _ in 0..TIMED {
            let start = Instant::now();
            self.near.send(&[1; 100])?;
            self.far.recv(&mut [0; 200]).context("a datagram that does not arrive")?;
            delays.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(delays)
    }

    /// How many of some datagrams arrive, sent without a hurry.
    fn arriving(&self, from: &UdpSocket, to: &UdpSocket, count: u64) -> anyhow::Result<u64> {
        let mut arrived = 0;
        to.set_nonblocking(true)?;
        for sent in 0..count {
            from.send(&[1; 100])?;
            if sent % 20 == 0 {
                // Far below what the sockets hold.
                std::thread::sleep(Duration::from_millis(1));
                arrived += drain(to)?;
            }
        }
        to.set_nonblocking(false)?;
        while to.recv(&mut [0; 200]).is_ok() {
            arrived += 1;
        }
        Ok(arrived)
    }

    /// Datagrams of 1,200 bytes a second, carried by the forwarding thread.
    fn flood(&self) -> anyhow::Result<f64> {
        let before = self.network.traffic().lines.arrived;
        let start = Instant::now();
        while start.elapsed() < FLOOD {
            for _ in 0..32 {
                match self.near.send(&[1; 1_200]) {
                    Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Other) => {
                        return Err(error.into());
                    }
                    _ => {}
                }
            }
        }
        let carried = self.network.traffic().lines.arrived - before;
        Ok(carried as f64 / start.elapsed().as_secs_f64())
    }

    /// Megabits a second that a line carries which is asked for a few, over a second.
    fn rate(&self, mbit: f64) -> anyhow::Result<f64> {
        self.network.bend(0, 1, &Bend { rate_mbit: Some(mbit), ..Bend::default() });
        let counters = || self.network.traffic().lines;
        let start = Instant::now();
        let (mut first, mut last) = (None, counters());
        while start.elapsed() < Duration::from_millis(1_500) {
            // More than the line takes; the queue drops the rest.
            for _ in 0..8 {
                self.near.send(&[1; 1_000])?;
            }
            std::thread::sleep(Duration::from_millis(2));
            last = counters();
            if first.is_none() && start.elapsed() > Duration::from_millis(500) {
                first = Some((Instant::now(), last));
            }
        }
        self.network.heal(0, 1);
        let (since, first) = first.context("no time has passed")?;
        let bytes = last.arrived_bytes - first.arrived_bytes;
        Ok(bytes as f64 * 8.0 / 1e6 / since.elapsed().as_secs_f64())
    }

    /// Reads what still arrives.
    fn settle(&self) {
        while self.far.recv(&mut [0; 2_000]).is_ok() {}
        while self.near.recv(&mut [0; 2_000]).is_ok() {}
    }
}

fn drain(socket: &UdpSocket) -> anyhow::Result<u64> {
    let mut count = 0;
    loop {
        match socket.recv(&mut [0; 200]) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(count),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs the bench.
pub(super) fn bench(_args: &LabArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("lab");
    report.add(Row::new("load average over a minute, before", "", machine::load()?));
    note(&format!("==> {NODES} namespaces, all linked over {} ms", DELAY_US / 1_000));
    let start = Instant::now();
    let ground = Ground::start()?;
    let up_ms = start.elapsed().as_secs_f64() * 1e3;
    report.add(Row::new(format!("{NODES} namespaces with devices are up"), "ms", up_ms).at_most(5_000.0));

    let added: Vec<f64> = ground.delays()?.iter().map(|delay| delay - DELAY_US as f64 / 1e3).collect();
    let least = added.iter().copied().fold(f64::INFINITY, f64::min);
    report.extend([
        Row::new("delay beyond the one asked for, least", "ms", least).at_least(0.0),
        Row::new("the same, p50", "ms", median(&added)).at_most(1.0),
        Row::new("the same, p99", "ms", quantile(&added, 0.99)),
    ]);

    ground.network.bend_one_way(0, 1, &Bend::loss(10.0));
    let arrived = ground.arriving(&ground.near, &ground.far, COUNTED)?;
    let lost = 100.0 - arrived as f64 * 100.0 / COUNTED as f64;
    report.add(Row::new("lost where 10 % is asked for", "%", lost).at_most(12.0));
    report.add(Row::new("the same, at least", "%", lost).at_least(8.0));
    ground.network.heal(0, 1);

    ground.network.cut_one_way(0, 1);
    let passed = ground.arriving(&ground.near, &ground.far, 100)?;
    let back = ground.arriving(&ground.far, &ground.near, 100)?;
    report.add(Row::new("of 100 datagrams over a line cut one way: arrive", "", passed as f64).at_most(0.0));
    report.add(Row::new("the same, the other way", "", back as f64).at_least(100.0));
    ground.network.heal(0, 1);
    let healed = ground.arriving(&ground.near, &ground.far, 100)?;
    report.add(Row::new("the same, healed", "", healed as f64).at_least(100.0));

    let rate = ground.rate(8.0)?;
    report.add(Row::new("carried where 8 Mbit/s is asked for", "Mbit/s", rate).at_most(8.5));
    report.add(Row::new("the same, at least", "Mbit/s", rate).at_least(7.0));
    ground.settle();

    report.add(Row::new("datagrams of 1,200 bytes carried a second", "/s", ground.flood()?).at_least(20_000.0));
    report.add(Row::new("load average over a minute, after", "", machine::load()?));
    Ok(report)
}
