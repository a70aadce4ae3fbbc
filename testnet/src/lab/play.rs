//! Plays a scenario on a fleet while operators write, heals it, and judges.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::sync::Mutex;

use super::fleet::Fleet;
use super::scenario::{Action, Scenario, Writers};
use super::select;
use super::watch::{Agreement, short};
use super::writer::{Writer, lost};

/// How long a node that was restarted may take until it has a link.
const LINK: Duration = Duration::from_secs(30);
/// Between two looks at whether it has one.
const POLL: Duration = Duration::from_millis(50);

/// What came of a scenario.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Where all nodes agree after all was healed, or what differs.
    agreement: Result<Agreement, Vec<String>>,
    /// Of the acknowledged writes what cannot be read on some node.
    lost: Vec<String>,
    /// In the middle of the scenario, what differed for longer than allowed.
    late: Vec<String>,
    nodes: usize,
    acknowledged: u64,
    failed: u64,
    took: Duration,
}

impl Verdict {
    pub(crate) fn holds(&self) -> bool {
        self.agreement.is_ok() && self.lost.is_empty() && self.late.is_empty()
    }

    /// The lines that say it.
    pub(crate) fn to_text(&self) -> String {
        let mut lines: Vec<String> = self.late.clone();
        match &self.agreement {
            Ok(agreement) => lines.push(format!(
                "converged: {nodes}/{nodes} nodes, root_durable {root}…, {} documents, {} changes, {} ms after the last write",
                agreement.documents,
                agreement.changes,
                agreement.after.as_millis(),
                nodes = self.nodes,
                root = short(&agreement.root_durable),
            )),
            Err(differences) => {
                lines.push("not converged:".to_owned());
                lines.extend(differences.iter().map(|line| format!("  {line}")));
            }
        }
        let written = format!("{} acknowledged writes, {} without an answer", self.acknowledged, self.failed);
        match self.lost.is_empty() {
            true => lines.push(format!("nothing lost: {written}")),
            false => {
                lines.push(format!("lost of {written}:"));
                lines.extend(self.lost.iter().map(|line| format!("  {line}")));
            }
        }
        let verdict = if self.holds() { "holds" } else { "DOES NOT HOLD" };
        lines.push(format!("{verdict}, after {:.1} s", self.took.as_secs_f64()));
        lines.join("\n") + "\n"
    }
}

/// Plays it. `note` hears of each step.
pub(crate) async fn play(scenario: &Scenario, fleet: &Mutex<Fleet>, note: &dyn Fn(&str)) -> anyhow::Result<Verdict> {
    let start = Instant::now();
    note(&format!("{}: {} steps", scenario.about, scenario.steps.len()));
    let (writer, mut watch, names) = {
        let fleet = fleet.lock().await;
        let names: Vec<String> = fleet.topology().nodes.iter().map(|place| place.name.clone()).collect();
        (begin_to_write(&fleet, &scenario.writers)?, fleet.watch(), names)
    };
    let mut late = Vec::new();
    for step in &scenario.steps {
        tokio::time::sleep(Duration::from_secs_f64(step.after_s)).await;
        let told = format!("{:5.1} s  {}", start.elapsed().as_secs_f64(), step.action);
        note(&told);
        let came = match &step.action {
            Action::Agree { within_s } => {
                // While operators write something is always on its way.
                writer.pause();
                let agreed = watch.agree(Duration::from_secs_f64(*within_s)).await;
                writer.resume();
                agreed.map(|agreement| agreement.after)
            }
            Action::Linked { one, other, within_s } => {
                let pairs = select::pairs(fleet.lock().await.topology(), one, other)?;
                watch.linked(&pairs, Duration::from_secs_f64(*within_s)).await
            }
            other => {
                act(other, fleet).await?;
                continue;
            }
        };
        match came {
            Ok(after) => note(&format!("         after {} ms", after.as_millis())),
            Err(differences) => {
                late.push(format!("late: {}", told.trim()));
                late.extend(differences.iter().map(|line| format!("  {line}")));
            }
        }
    }
    note(&format!("{:5.1} s  heal, and the last writes", start.elapsed().as_secs_f64()));
    fleet.lock().await.heal().await?;
    let journals = writer.stop().await?;
    let agreement = watch.agree(Duration::from_secs_f64(scenario.agree_within_s)).await;
    let lost = lost(&journals, &names, &mut watch).await;
    Ok(Verdict {
        agreement,
        lost,
        late,
        nodes: names.len(),
        acknowledged: journals.iter().map(|journal| journal.acknowledged).sum(),
        failed: journals.iter().map(|journal| journal.failed).sum(),
        took: start.elapsed(),
    })
}

/// On some nodes, evenly spread over the zones.
fn begin_to_write(fleet: &Fleet, writers: &Writers) -> anyhow::Result<Writer> {
    let nodes = fleet.topology().nodes.len();
    let count = writers.nodes.clamp(1, nodes);
    let mut order: Vec<usize> = (0..nodes).collect();
    order.sort_by_key(|node| (&fleet.topology().nodes[*node].zone, *node));
    let chosen: Vec<(String, PathBuf)> = (0..count)
        .map(|number| order[number * nodes / count])
        .map(|node| (fleet.topology().nodes[node].name.clone(), fleet.folder_of(node)))
        .collect();
    let pause = Duration::from_secs_f64(count as f64 / writers.writes_per_s);
    Ok(Writer::start(fleet.operator()?, chosen, pause))
}

async fn act(action: &Action, fleet: &Mutex<Fleet>) -> anyhow::Result<()> {
    if let Action::RestartEach { nodes, is_killed } = action {
        return restart_each(fleet, nodes, *is_killed).await;
    }
    let mut fleet = fleet.lock().await;
    let chosen = |nodes: &str| select::nodes(fleet.topology(), nodes);
    match action {
        Action::Cut { one, other, is_one_way } => {
            fleet.cut(one, other, *is_one_way)?;
        }
        Action::Bend { one, other, bend } => {
            fleet.bend(one, other, false, bend)?;
        }
        Action::HealBetween { one, other } => {
            fleet.heal_between(one, other)?;
        }
        Action::Freeze(nodes) => chosen(nodes)?.into_iter().try_for_each(|node| fleet.freeze(node))?,
        Action::Thaw(nodes) => chosen(nodes)?.into_iter().try_for_each(|node| fleet.thaw(node))?,
        Action::Kill(nodes) => chosen(nodes)?.into_iter().for_each(|node| fleet.kill(node)),
        Action::Start(nodes) => {
            for node in chosen(nodes)? {
                fleet.start_again(node).await?;
            }
        }
        Action::Heal => {
            fleet.heal().await?;
        }
        Action::Unplug(nodes) => {
            fleet.unplug(nodes)?;
        }
        Action::Plug(nodes) => {
            fleet.plug(nodes)?;
        }
        Action::Rebind(nodes) => {
            fleet.rebind(nodes)?;
        }
        Action::RestartEach { .. } | Action::Linked { .. } | Action::Agree { .. } => {}
    }
    Ok(())
}

/// Ends and starts each in turn; the next when the one before has a link again.
async fn restart_each(fleet: &Mutex<Fleet>, nodes: &str, is_killed: bool) -> anyhow::Result<()> {
    let chosen = select::nodes(fleet.lock().await.topology(), nodes)?;
    for node in chosen {
        let mut fleet = fleet.lock().await;
        match is_killed {
            true => fleet.kill(node),
            false => fleet.stop(node).await?,
        }
        fleet.start_again(node).await?;
        let (mut client, name) = (fleet.client(node).await?, fleet.topology().nodes[node].name.clone());
        // Others may look and act meanwhile.
        drop(fleet);
        let since = Instant::now();
        loop {
            let status = client.get("/v1/status").await?;
            if status["peers"]["up"].as_u64().context("a status without peers")? > 0 {
                break;
            }
            ensure!(since.elapsed() < LINK, "{name} has no link {} s after its start", LINK.as_secs());
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}
