//! The verbs, as a person runs them.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;

use super::control::{Request, ask};
use super::failure::Failure;
use super::fleet::{Fleet, Plan};
use super::folder;
use super::network::NetworkError;
use super::play::{Verdict, play};
use super::scenario::Scenario;
use super::serve::serve;
use super::{Between, RunArgs, UpArgs, Verb, With, network, show};
use crate::bench::{self, Format, note, print};
use crate::sim::topology::Topology;

/// Between two looks at a lab that comes up.
const POLL: Duration = Duration::from_millis(50);
/// Lines of the log that are shown of a lab that did not.
const TAIL_LINES: usize = 20;

/// Does a verb. False means that what must hold does not.
pub(super) fn act(verb: Verb, folder: &Path) -> Result<bool, Failure> {
    let counted = |request: &Request, what: &str| {
        let lines = ask(folder, request, &note)?;
        note(&format!("{what}: {lines} {}", if lines == 1 { "line" } else { "lines" }));
        Ok(true)
    };
    let named = |request: &Request, what: &str| {
        let names = ask(folder, request, &note)?;
        let names = names.as_array().map_or(&[][..], Vec::as_slice);
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        note(&format!("{what}: {}", if names.is_empty() { "nothing".to_owned() } else { names.join(" ") }));
        Ok(true)
    };
    match verb {
        Verb::Check => Ok(network::check().map(|()| true)?),
        Verb::Up(args) => up(&args, folder),
        Verb::Serve(args) => serve(plan(&args.topology, &args.with)?, &absolute(folder)?).map(|()| true),
        Verb::Run(args) => run(&args, folder),
        Verb::Cut { between: Between { one, other, one_way } } => {
            counted(&Request::Cut { one, other, is_one_way: one_way }, if one_way { "cut one way" } else { "cut" })
        }
        Verb::Bend { between: Between { one, other, one_way }, bend } => {
            let bend = bend.bend();
            let what = format!("{bend}{}", if one_way { ", one way" } else { "" });
            counted(&Request::Bend { one, other, is_one_way: one_way, bend }, &what)
        }
        Verb::Heal { one: Some(one), other: Some(other) } => {
            counted(&Request::Heal { between: Some((one, other)) }, "healed")
        }
        Verb::Heal { .. } => named(&Request::Heal { between: None }, "healed; started"),
        Verb::Freeze(args) => named(&Request::Freeze { nodes: args.nodes }, "frozen"),
        Verb::Thaw(args) => named(&Request::Thaw { nodes: args.nodes }, "thawed"),
        Verb::Kill(args) => named(&Request::Kill { nodes: args.nodes }, "killed"),
        Verb::Start(args) => named(&Request::Start { nodes: args.nodes }, "up"),
        Verb::Unplug(args) => named(&Request::Unplug { nodes: args.nodes }, "unplugged"),
        Verb::Plug(args) => named(&Request::Plug { nodes: args.nodes }, "plugged in"),
        Verb::Rebind(args) => named(&Request::Rebind { nodes: args.nodes }, "behind a router that forgot its mappings"),
        Verb::Ps { output } => ps(folder, output).map(|()| true),
        Verb::Shell { node, command } => Err(shell(folder, node, &command)),
        Verb::Down => down(folder).map(|()| true),
    }
}

fn plan(topology: &str, with: &With) -> Result<Plan, Failure> {
    let program = bench::fleetsync(with.fleetsync.as_deref()).map_err(|error| {
        Failure::new("there is no fleetsync to run").cause(format!("{error:#}")).hint("cargo build --release --bins")
    })?;
    let topology = Topology::load(topology, with.seed)?;
    let topology = topology.shrink_to(with.nodes.unwrap_or(usize::MAX));
    if topology.nodes.len() > network::NODES_MAX {
        return Err(NetworkError::TooMany(topology.nodes.len()).into());
    }
    Ok(Plan { topology, seed: with.seed, program, run_with: with.run_with.clone() })
}

fn absolute(folder: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(folder)
        .map_err(|error| Failure::new("the lab's folder cannot be used").cause(error).hint("pwd"))
}

fn up(args: &UpArgs, folder: &Path) -> Result<bool, Failure> {
    let folder = &absolute(folder)?;
    network::check()?;
    let plan = plan(&args.topology, &args.with)?;
    folder::make(folder)?;
    let failed = |error: std::io::Error| Failure::new("the lab did not start").cause(error).hint("testnet lab down");
    let log = File::options().create(true).append(true).open(folder.join(folder::LOG)).map_err(failed)?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["lab", "serve", &args.topology, "--seed", &args.with.seed.to_string()]);
    command.arg("--dir").arg(folder).arg("--fleetsync").arg(&plan.program);
    command.args(args.with.nodes.map(|nodes| format!("--nodes={nodes}")));
    command.args(plan.run_with.iter().map(|word| format!("--run-with={word}")));
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
    note(&format!("==> {} nodes of {} in {}", plan.topology.nodes.len(), plan.topology.name, folder.display()));
    wait_until_up(&mut command.spawn().map_err(failed)?, folder)?;
    ps(folder, Format::Table)?;
    let (first, last) = (&plan.topology.nodes[0].name, &plan.topology.nodes[plan.topology.nodes.len() - 1].name);
    let dir = if *folder == folder::default_path() { String::new() } else { format!(" --dir {}", folder.display()) };
    note(&format!(
        "next: testnet lab shell {first}{dir} -- fleetsync device ls\n      \
         testnet lab cut {first} '*'{dir}; testnet lab ps{dir}; testnet lab heal{dir}\n      \
         testnet lab bend {first} {last} --loss-percent 30{dir}; testnet lab run partition{dir}; testnet lab down{dir}"
    ));
    Ok(true)
}

/// Tells the progress that the log tells, until the lab answers.
fn wait_until_up(child: &mut Child, folder: &Path) -> Result<(), Failure> {
    let path = folder.join(folder::LOG);
    let failed = |error: std::io::Error| Failure::new("the lab did not start").cause(error).hint("testnet lab down");
    let mut log = File::open(&path).map_err(failed)?;
    let mut text = String::new();
    let mut told = 0;
    loop {
        let is_up = folder.join(folder::SOCKET).exists();
        let status = child.try_wait().map_err(failed)?;
        log.read_to_string(&mut text).map_err(failed)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        text[told..whole].lines().filter(|line| line.starts_with("==> ")).for_each(note);
        told = whole;
        if status.is_some_and(|status| status.success()) {
            return Err(Failure::new("the lab was told to end before it was up").hint("testnet lab up lan-12"));
        }
        if let Some(status) = status {
            let lines: Vec<&str> = text.lines().collect();
            note(&lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"));
            return Err(Failure::new("the lab did not come up")
                .cause(format!("it ended with {status}; the end of its log stands above"))
                .hint(format!("cat {}", path.display())));
        }
        if is_up {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

fn ps(folder: &Path, output: Format) -> Result<(), Failure> {
    let report = ask(folder, &Request::Ps, &note)?;
    print(&match output {
        Format::Table => show::table(&report),
        Format::Json => format!("{report:#}\n"),
    });
    Ok(())
}

fn down(folder: &Path) -> Result<(), Failure> {
    // One that is still coming up has no socket yet.
    if folder::is_up(folder) && ask(folder, &Request::Down, &note).is_err() {
        folder::terminate(folder)?;
    }
    folder::remove(folder)?;
    note("the lab is down");
    Ok(())
}

fn run(args: &RunArgs, folder: &Path) -> Result<bool, Failure> {
    let text = Scenario::text(&args.scenario)?;
    let scenario = Scenario::parse(&text)?;
    if folder::is_up(folder) {
        if args.topology.is_some() {
            return Err(Failure::new("a lab is up, with a topology of its own")
                .hint(format!("testnet lab run {}", args.scenario)));
        }
        let verdict = ask(folder, &Request::Run { text }, &note)?;
        print(verdict["text"].as_str().unwrap_or_default());
        return Ok(verdict["holds"] == true);
    }
    network::check()?;
    let plan = plan(args.topology.as_ref().unwrap_or(&scenario.topology), &args.with)?;
    let verdict = alone(plan, &scenario)?;
    print(&verdict.to_text());
    Ok(verdict.holds())
}

/// Plays a scenario on a lab of its own, which is gone afterwards.
fn alone(plan: Plan, scenario: &Scenario) -> anyhow::Result<Verdict> {
    let temporary = tempfile::Builder::new().prefix("fleetsync-lab.").tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    note(&format!("==> {} nodes of {}", plan.topology.nodes.len(), plan.topology.name));
    runtime.block_on(async {
        let played = async {
            let fleet = Fleet::start(plan, temporary.path(), &note).await?;
            play(scenario, &Mutex::new(fleet), &note).await
        };
        tokio::select! {
            verdict = played => verdict,
            _ = bench::ended() => Err(Failure::new("interrupted").hint("testnet lab run partition").into()),
        }
    })
}

/// Becomes a shell, or a command, in a node's network; returns only if that fails.
fn shell(folder: &Path, node: String, command: &[String]) -> Failure {
    let answer = match ask(folder, &Request::Shell { node }, &note) {
        Ok(answer) => answer,
        Err(failure) => return failure,
    };
    let said = |key: &str| answer[key].as_str().unwrap_or_default();
    let mut entered = Command::new("nsenter");
    entered.arg(format!("--net={}", said("namespace"))).arg("--");
    if command.is_empty() {
        let rc = said("rc");
        let text = format!("[ -f ~/.bashrc ] && . ~/.bashrc\nPS1='[lab {}] '\"$PS1\"\n", said("name"));
        if let Err(error) = fs::write(rc, text) {
            return Failure::new("the shell did not start").cause(error).hint("testnet lab ps");
        }
        entered.args(["bash", "--rcfile", rc]);
    } else {
        entered.args(command);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FLEETSYNC_")) {
        entered.env_remove(name);
    }
    let beside = Path::new(said("program")).parent().map(Path::to_owned).unwrap_or_default();
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([beside].into_iter().chain(std::env::split_paths(&rest))).unwrap_or(rest);
    entered.env("PATH", path).env("FLEETSYNC_DATA_DIR", said("data_dir")).env("FLEETSYNC_KEYS", said("keys"));
    Failure::new("the shell did not start").cause(entered.exec()).hint("apt-get install util-linux")
}
