//! Real `fleetsync` processes in a temporary folder; whatever happens, they end with the bench.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use node::client::Client;
use serde_json::Value;

/// How long anything may take that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(1);

/// The program, and the person's keys with which it acts.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) keys: PathBuf,
}

impl Program {
    fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        self.dress(Command::new(&self.path), folder, arguments)
    }

    /// Gives a command that starts the program its folder, its arguments and its environment.
    pub(crate) fn dress(&self, mut command: Command, folder: &Path, arguments: &[&str]) -> Command {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLEETSYNC_") {
                command.env_remove(name);
            }
        }
        command.env("FLEETSYNC_KEYS", &self.keys).arg("--data-dir").arg(folder).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end and returns its stdout.
    pub(crate) fn run(&self, folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(folder, arguments).output().context("fleetsync did not start")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "fleetsync {}: {}", arguments.join(" "), error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Makes a folder a member's with a ticket from a running node.
    pub(crate) fn join(&self, inviter: &NodeProcess, folder: &Path, name: &str) -> anyhow::Result<()> {
        let ticket = self.run(&inviter.folder, &["member", "invite", "--name", name])?;
        self.run(folder, &["join", &ticket])?;
        Ok(())
    }

    /// Starts a node on loopback and waits until it answers.
    pub(crate) async fn start(&self, folder: &Path, more: &[&str]) -> anyhow::Result<NodeProcess> {
        self.start_at("127.0.0.1", folder, more).await
    }

    /// The same, listening there; `none` for a node that only dials.
    pub(crate) async fn start_at(&self, listen: &str, folder: &Path, more: &[&str]) -> anyhow::Result<NodeProcess> {
        let log = folder.with_extension("log");
        let to_log =
            || -> anyhow::Result<Stdio> { Ok(std::fs::File::options().create(true).append(true).open(&log)?.into()) };
        let mut arguments = vec!["run", "--listen", listen, "--port", "0", "--mdns", "false"];
        arguments.extend(more);
        let mut command = self.command(folder, &arguments);
        command.stdout(to_log()?).stderr(to_log()?);
        let spawned = Instant::now();
        let child = command.spawn().context("fleetsync did not start")?;
        let mut child = Guard(child);
        let (client, status) = loop {
            if let Some(answer) = greet(folder).await {
                break answer;
            }
            if let Some(status) = child.0.try_wait()? {
                bail!("the node in {} ended with {status}:\n{}", folder.display(), tail(&log));
            }
            ensure!(spawned.elapsed() < PATIENCE, "the node in {} does not answer:\n{}", folder.display(), tail(&log));
            tokio::time::sleep(POLL).await;
        };
        let id = status["node"].as_str().context("a status without a node")?.to_owned();
        Ok(NodeProcess { id, folder: folder.to_owned(), client, ready_after: spawned.elapsed(), child })
    }
}

/// The API of a node, if it answers already, and its status.
pub(crate) async fn greet(folder: &Path) -> Option<(Client, Value)> {
    let mut client = Client::connect(&folder.join("api.sock")).await.ok()?;
    let status = client.get("/v1/status").await.ok()?;
    Some((client, status))
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// Kills the child when it goes.
#[derive(Debug)]
pub(crate) struct Guard(pub(crate) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running node with a kept connection to its API. It is killed when this goes.
pub(crate) struct NodeProcess {
    /// The device's id.
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) client: Client,
    /// From the spawn to the first status.
    pub(crate) ready_after: Duration,
    child: Guard,
}

impl NodeProcess {
    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// SIGKILL, and waits for its end; returns its folder.
    pub(crate) fn kill(self) -> PathBuf {
        let NodeProcess { folder, .. } = self;
        folder
    }
}

/// Waits until every node is linked with all others and all hold the same.
pub(crate) async fn converged(nodes: &mut [NodeProcess]) -> anyhow::Result<()> {
    let start = Instant::now();
    let others = nodes.len() as u64 - 1;
    loop {
        let mut states = Vec::new();
        for node in nodes.iter_mut() {
            let status = node.client.get("/v1/status").await?;
            states.push((status["peers"]["up"].as_u64(), status["behind"].as_u64(), status["root"].clone()));
        }
        let is_linked = states.iter().all(|(up, behind, _)| (*up, *behind) == (Some(others), Some(0)));
        if is_linked && states.iter().all(|state| state.2 == states[0].2) {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "the nodes do not converge: {states:?}");
        tokio::time::sleep(POLL).await;
    }
}
