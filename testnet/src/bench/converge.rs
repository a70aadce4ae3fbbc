//! `bench converge`: five real processes of one fleet on loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use crdt::id::DeviceId;
use serde_json::{Value, json};

use super::operator::Operator;
use super::process::{NodeProcess, Program, converged};
use super::report::{Report, Row, median};
use super::spread::{Question, Sort, Times, watch};
use super::traffic::{self, Counters};
use super::{ConvergeArgs, admission, fleetsync, history, machine, note};

const NODES: usize = 5;
/// Writes before those that count, so that every document and label exists.
const WARM_UP: u64 = 20;
const TARGETS_MS: Option<(f64, f64)> = Some((5.0, 20.0));
const CONFIG: &str = "config/bench";

/// Runs everything; every process ends with it.
pub(crate) async fn run(args: &ConvergeArgs) -> anyhow::Result<Report> {
    let temporary = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
    let root = temporary.path();
    let program = Program { path: fleetsync(args.fleetsync.as_deref())?, keys: root.join("keys") };
    note(&format!("==> {} in {}", program.path.display(), root.display()));
    let mut report = Report::new("converge");
    report.add(Row::new("load average over a minute, before", "", machine::load()?));
    let synced_ms = machine::synced_write_ms(root)?;
    let trip_ms = machine::round_trip_ms()?;
    report.add(Row::new("floor: append of 1 KiB to a file with fdatasync", "ms", synced_ms));
    report.add(Row::new("floor: 100 bytes there and back, UDP on loopback", "ms", trip_ms));
    report.extend(admission::rows()?);

    note("==> five nodes");
    let (mut nodes, mut operator) = fleet(&program, root).await?;
    let labels = label_runs(args, &mut nodes, &mut operator).await?;
    let label =
        Sort {
            name: "assigned label: answered on one → readable on five", targets_ms: TARGETS_MS, floor_ms: trip_ms
        };
    report.extend(label.rows(&labels));
    let (sets, costs) = config_runs(args, &mut nodes, &operator).await?;
    let set = Sort { name: "config set: answered on one → readable on five", ..label };
    report.extend(set.rows(&sets));
    report.extend(traffic::rows(&costs));
    report.extend(idle(&mut nodes, args.idle_s).await?);

    note("==> a device's own changes");
    let (from_seen, from_file) = own_runs(args, &program, root, &mut nodes).await?;
    let floor_ms = synced_ms + trip_ms;
    let own = Sort { name: "a device's own change: readable on itself → on five", targets_ms: TARGETS_MS, floor_ms };
    report.extend(own.rows(&from_seen));
    let file =
        Sort { name: "a device's own change: source file replaced → readable on five", targets_ms: None, floor_ms };
    report.extend(file.rows(&from_file));
    drop(nodes);

    note("==> a long history");
    report.extend(history::rows(&program, root).await?);
    report.add(Row::new(
        "floor: append of 1 KiB to a file with fdatasync, again",
        "ms",
        machine::synced_write_ms(root)?,
    ));
    report.add(Row::new("floor: 100 bytes there and back, UDP on loopback, again", "ms", machine::round_trip_ms()?));
    report.add(Row::new("load average over a minute, after", "", machine::load()?));
    Ok(report)
}

/// Five linked members; all of them collect from this machine.
async fn fleet(program: &Program, root: &Path) -> anyhow::Result<(Vec<NodeProcess>, Operator)> {
    let first = root.join("node-0");
    let fleet = program.run(&first, &["init", "--name", "node-0", "--no-passphrase"])?;
    let mut nodes = vec![program.start(&first, &[]).await?];
    for number in 1..NODES {
        let name = format!("node-{number}");
        let folder = root.join(&name);
        program.join(&nodes[0], &folder, &name)?;
        nodes.push(program.start(&folder, &[]).await?);
    }
    converged(&mut nodes).await?;
    Ok((nodes, Operator::open(&program.keys, &fleet)?))
}

/// Labels of the last device, given on the first node.
async fn label_runs(
    args: &ConvergeArgs,
    nodes: &mut [NodeProcess],
    operator: &mut Operator,
) -> anyhow::Result<Vec<Times>> {
    let device: DeviceId = nodes[NODES - 1].id.parse()?;
    let question = Question {
        resource: format!("/v1/devices/{device}?path=label.bench"),
        pointer: "/assigned/label.bench/value".to_owned(),
    };
    let mut runs = Vec::new();
    for run in 0..args.runs {
        let mut times = Times::default();
        for write in 0..WARM_UP + args.count {
            let value = format!("{run}-{write}");
            operator.label(&mut nodes[0].client, &device, &value).await?;
            let answered = Instant::now();
            let seen = watch(nodes.iter_mut().map(|node| &mut node.client), &question, &json!(value), answered).await?;
            if write >= WARM_UP {
                times.note(&seen, Duration::ZERO);
            }
        }
        runs.push(times);
    }
    Ok(runs)
}

/// Values of one configuration, set on the first node.
async fn config_runs(
    args: &ConvergeArgs,
    nodes: &mut [NodeProcess],
    operator: &Operator,
) -> anyhow::Result<(Vec<Times>, Vec<traffic::Cost>)> {
    let question = Question {
        resource: format!("/v1/document?document={CONFIG}&path=exposure.gain"),
        pointer: "/values/exposure.gain/value".to_owned(),
    };
    let (mut runs, mut costs) = (Vec::new(), Vec::new());
    let mut value = 0;
    for _ in 0..args.runs {
        let mut times = Times::default();
        let mut sizes = Vec::new();
        let mut before = None;
        for write in 0..WARM_UP + args.count {
            if write == WARM_UP {
                before = Some(Counters::read(nodes, CONFIG).await?);
            }
            value += 1;
            let size = operator.set(&mut nodes[0].client, CONFIG, "exposure.gain", value).await?;
            let answered = Instant::now();
            let seen = watch(nodes.iter_mut().map(|node| &mut node.client), &question, &json!(value), answered).await?;
            if write >= WARM_UP {
                times.note(&seen, Duration::ZERO);
                sizes.push(size);
            }
        }
        let after = Counters::read(nodes, CONFIG).await?;
        costs.push(traffic::cost(&before.context("no write was counted")?, &after, &sizes, NODES)?);
        runs.push(times);
    }
    Ok((runs, costs))
}

/// Memory and CPU of the node that takes most, after everything has settled.
async fn idle(nodes: &mut [NodeProcess], seconds: u64) -> anyhow::Result<Vec<Row>> {
    converged(nodes).await?;
    note(&format!("==> {seconds} s of nothing"));
    let cpu =
        |nodes: &[NodeProcess]| nodes.iter().map(|node| machine::cpu_s(node.pid())).collect::<Result<Vec<_>, _>>();
    let start = Instant::now();
    let before = cpu(nodes)?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = cpu(nodes)?;
    let window = start.elapsed().as_secs_f64();
    let shares: Vec<f64> = before.iter().zip(&after).map(|(before, after)| (after - before) / window * 100.0).collect();
    let resident = nodes.iter().map(|node| machine::resident_mb(node.pid())).collect::<Result<Vec<_>, _>>()?;
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Row::new("idle node of five, resident memory, the largest", "MB", most(&resident)).at_most(60.0),
        Row::new("idle node of five, resident memory, median", "MB", median(&resident)),
        Row::new("idle node of five, CPU, the busiest", "% of a core", most(&shares)).at_most(0.5),
        Row::new("idle node of five, CPU, median", "% of a core", median(&shares)),
    ])
}

/// The replay of a machine with one thermal zone, whose file the bench replaces.
struct Machine {
    folder: PathBuf,
}

impl Machine {
    fn make(folder: PathBuf) -> anyhow::Result<Machine> {
        let zone = folder.join("frames/now/sys/class/thermal/thermal_zone0");
        fs::create_dir_all(&zone)?;
        fs::create_dir_all(folder.join("base/sys/class/thermal/thermal_zone0"))?;
        fs::write(folder.join("base/sys/class/thermal/thermal_zone0/type"), "cpu-thermal\n")?;
        let frames = r#"[{"folder": "frames/now", "duration_ms": 1000}]"#;
        fs::write(folder.join("replay.json"), format!(r#"{{"after_last": "hold", "frames": {frames}}}"#))?;
        let machine = Machine { folder };
        machine.set(20_000)?;
        Ok(machine)
    }

    /// Replaces the file, so that nobody reads a part of it.
    fn set(&self, milli_celsius: i64) -> anyhow::Result<()> {
        let zone = self.folder.join("frames/now/sys/class/thermal/thermal_zone0");
        fs::write(zone.join("temp.new"), format!("{milli_celsius}\n"))?;
        Ok(fs::rename(zone.join("temp.new"), zone.join("temp"))?)
    }
}

/// Changes that the last node makes of its own: it is started anew as a replay that looks every millisecond.
/// Times since the change is readable on itself, and since the file was replaced.
async fn own_runs(
    args: &ConvergeArgs,
    program: &Program,
    root: &Path,
    nodes: &mut Vec<NodeProcess>,
) -> anyhow::Result<(Vec<Times>, Vec<Times>)> {
    let machine = Machine::make(root.join("replay"))?;
    let folder = nodes.pop().context("no node")?.kill();
    // Without the budget five devices would write every 825 ms at most.
    fs::write(folder.join("config.toml"), "[telemetry]\ninterval_min_ms = 1\nbudget_bytes_per_s = 1000000000\n")?;
    let replay = machine.folder.display().to_string();
    nodes.push(program.start(&folder, &["--replay", &replay]).await?);
    converged(nodes).await?;
    let path = "thermal.zone0.temperature_milli_celsius";
    let question = Question {
        resource: format!("/v1/document?document=environment/{}&path={path}", nodes[NODES - 1].id),
        pointer: format!("/values/{path}/value"),
    };
    let (mut from_seen, mut from_file) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        let (mut seen_times, mut file_times) = (Times::default(), Times::default());
        for write in 0..WARM_UP + args.count {
            // Further than the dead-band of 1 °C, and never twice the same in a row.
            let value = 30_000 + 2_000 * i64::try_from(write % 16)?;
            let replaced = Instant::now();
            machine.set(value)?;
            let seen =
                watch(nodes.iter_mut().map(|node| &mut node.client), &question, &Value::from(value), replaced).await?;
            if write >= WARM_UP {
                seen_times.note(&seen, seen.at[NODES - 1]);
                file_times.note(&seen, Duration::ZERO);
            }
        }
        from_seen.push(seen_times);
        from_file.push(file_times);
    }
    Ok((from_seen, from_file))
}
