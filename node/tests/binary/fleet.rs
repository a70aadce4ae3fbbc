//! A fleet of real processes in a temporary folder.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::Api;

/// How long anything may take that is waited for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Waits until a condition holds, [`DEADLINE`] at most.
pub(crate) fn within(what: &str, mut holds: impl FnMut() -> bool) {
    let found = wait_for(DEADLINE, || holds().then_some(()));
    assert!(found.is_some(), "waited in vain: {what}");
}

/// Waits for a value; `None` where it does not come in time.
pub(crate) fn wait_for<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// What a command did.
#[derive(Debug, Clone)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The stdout of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.out
    }

    /// The stdout of a command that must succeed, as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.ok()).unwrap()
    }

    /// A failure as people see it: this exit code, `error:` and `hint:`, these words on stderr, nothing on stdout.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.out.is_empty(), "{self:?}");
        for word in ["error: ", "hint: "].iter().chain(words) {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
    }
}

/// A temporary folder with data folders by name, and one person's keys.
pub(crate) struct Fleet {
    folder: tempfile::TempDir,
}

impl Fleet {
    /// An empty folder; nobody is a member of anything yet.
    pub(crate) fn empty() -> Fleet {
        Fleet { folder: tempfile::Builder::new().prefix("fleetsync-test.").tempdir().unwrap() }
    }

    /// A fleet with one member.
    pub(crate) fn found(name: &str) -> Fleet {
        let fleet = Fleet::empty();
        fleet.cli(name, &["init", "--name", name, "--zone", "lab", "--no-passphrase"]).ok();
        fleet
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.path().join("keys")
    }

    /// The binary for a data folder, with no setting of the tester's.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleetsync"));
        for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("FLEETSYNC_")) {
            command.env_remove(variable);
        }
        command
            .args(arguments)
            .env("FLEETSYNC_KEYS", self.keys())
            .env("FLEETSYNC_MDNS", "false")
            .env("FLEETSYNC_LISTEN", "127.0.0.1")
            .env("FLEETSYNC_DATA_DIR", self.data_dir(name))
            .env("COLUMNS", "100")
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn cli(&self, name: &str, arguments: &[&str]) -> Ran {
        run(&mut self.command(name, arguments))
    }

    /// A ticket for a device, made on a node that runs.
    pub(crate) fn ticket(&self, on: &Node, name: &str) -> String {
        self.cli(&on.name, &["member", "invite", "--name", name, "--zone", "lab"]).ok().trim().to_owned()
    }

    /// Makes a folder a member's over a node that runs.
    pub(crate) fn join(&self, on: &Node, name: &str) {
        let ticket = self.ticket(on, name);
        assert_eq!(self.cli(name, &["join", &ticket]).ok(), format!("{name}\n"));
    }

    /// Starts a node on a free port and waits until it is ready.
    pub(crate) fn run(&self, name: &str) -> Node {
        self.start(name, &[]).ready()
    }

    /// Starts a node and waits for nothing.
    pub(crate) fn start(&self, name: &str, arguments: &[&str]) -> Node {
        let mut all = vec!["run", "--listen", "127.0.0.1", "--port", "0"];
        all.extend(arguments);
        self.spawn(name, self.command(name, &all))
    }

    /// Starts a node by a command of the caller's.
    pub(crate) fn spawn(&self, name: &str, mut command: Command) -> Node {
        let number = fs::read_dir(self.path()).unwrap().count();
        let log = self.path().join(format!("{name}.{number}.log"));
        let file = File::create(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap();
        Node { name: name.to_owned(), folder: self.data_dir(name), log, child, started: Instant::now() }
    }

    /// Two members that run.
    pub(crate) fn pair() -> (Fleet, Node, Node) {
        let fleet = Fleet::found("a");
        let a = fleet.run("a");
        fleet.join(&a, "b");
        let b = fleet.run("b");
        (fleet, a, b)
    }
}

/// Runs a command to its end, [`DEADLINE`] at most.
pub(crate) fn run(command: &mut Command) -> Ran {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |pipe: &mut dyn Read| {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    };
    let (out, err) = std::thread::scope(|scope| {
        let err = scope.spawn(|| read(&mut stderr));
        (read(&mut stdout), err.join().unwrap())
    });
    let status = ended(&mut child).unwrap_or_else(|| panic!("{command:?} does not end"));
    let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
    Ran { code, out, err }
}

fn ended(child: &mut Child) -> Option<ExitStatus> {
    let status = wait_for(DEADLINE, || child.try_wait().unwrap());
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// A node's process; it is killed when this goes.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    log: PathBuf,
    child: Child,
    started: Instant,
}

impl Node {
    /// Waits until the node says that it is ready.
    #[track_caller]
    pub(crate) fn ready(mut self) -> Node {
        assert!(self.is_ready(), "{} ended:\n{}", self.name, self.log());
        self
    }

    /// Waits until the node is ready or has ended; whether it is ready.
    pub(crate) fn is_ready(&mut self) -> bool {
        let ready = wait_for(DEADLINE, || {
            let has_ended = self.child.try_wait().unwrap().is_some();
            let is_ready = self.log().contains("ready: ");
            (is_ready || has_ended).then_some(is_ready)
        });
        ready.unwrap_or_else(|| panic!("{} neither starts nor ends:\n{}", self.name, self.log()))
    }

    /// How long ago it was started.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// What it has written to stdout and stderr since it was started.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    /// A new connection to its API.
    pub(crate) fn api(&self) -> Api {
        Api::connect(&self.socket()).unwrap()
    }

    /// Reads a resource of its API.
    #[track_caller]
    pub(crate) fn get(&self, resource: &str) -> Value {
        let answer = self.api().get(resource).unwrap();
        assert_eq!(answer.status, 200, "{resource}: {answer:?}");
        answer.json()
    }

    pub(crate) fn status(&self) -> Value {
        self.get("/v1/status")
    }

    /// How many sessions it holds.
    pub(crate) fn links(&self) -> u64 {
        self.status()["peers"]["up"].as_u64().unwrap()
    }

    /// Its root over statements and operators' documents.
    pub(crate) fn root_durable(&self) -> String {
        self.status()["root_durable"].as_str().unwrap().to_owned()
    }

    /// The port on which it listens, UDP and TCP.
    pub(crate) fn port(&self) -> u16 {
        let log = self.log();
        let (_, rest) = log.split_once(" on port ").unwrap();
        rest.split(',').next().unwrap().parse().unwrap()
    }

    /// Ends it as a crash would, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end; how it ended, and how long that took.
    pub(crate) fn terminate(mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        let sent = run(Command::new("kill").args(["-TERM", &self.pid().to_string()]));
        assert_eq!(sent.code, 0, "{sent:?}");
        let status = ended(&mut self.child).expect("the node ends when it is asked to");
        (status, asked.elapsed())
    }

    /// Waits for a node that ends by itself.
    pub(crate) fn end(mut self) -> Ran {
        let status = ended(&mut self.child).unwrap_or_else(|| panic!("{} goes on:\n{}", self.name, self.log()));
        Ran { code: status.code().unwrap_or(-1), out: String::new(), err: self.log() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let _ = writeln!(
                std::io::stderr(),
                "--- {}, last lines:\n{}",
                self.name,
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
    }
}

/// The value at a path of a configuration, as a node reads it; `None` where it has none.
pub(crate) fn config(node: &Node, name: &str, path: &str) -> Option<Value> {
    let answer = node.api().get(&format!("/v1/document?document=config/{name}&path={path}")).unwrap();
    (answer.status == 200).then(|| answer.json()["values"][path]["value"].clone())
}

/// Waits until nodes have equal durable roots.
#[track_caller]
pub(crate) fn converge(nodes: &[&Node]) {
    let roots = || nodes.iter().map(|node| node.root_durable()).collect::<Vec<_>>();
    let equal = |roots: &[String]| roots.iter().all(|root| *root == roots[0]);
    let found = wait_for(DEADLINE, || equal(&roots()).then_some(()));
    assert!(found.is_some(), "the nodes differ: {:?}", roots());
}
