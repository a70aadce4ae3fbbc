//! The process behind `lab up`: it holds the fleet, and does what the verbs ask for over its socket.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Notify, mpsc};

use super::control::{Answer, REQUEST_BYTES_MAX, Request};
use super::failure::Failure;
use super::fleet::{Fleet, Plan, State};
use super::play::play;
use super::scenario::Scenario;
use super::watch::Watch;
use super::{folder, select};
use crate::bench::{ended, note};

/// A lab that is up.
struct Lab {
    fleet: Mutex<Fleet>,
    watch: Mutex<Watch>,
    folder: PathBuf,
    since: Instant,
    down: Notify,
}

/// Brings a lab up in a folder that was [made](folder::make), and serves it until it is told to end.
pub(crate) fn serve(plan: Plan, path: &Path) -> Result<(), Failure> {
    // Whoever started it may close the terminal. An error means that it has a session of its own already.
    let _ = rustix::process::setsid();
    let _lock = folder::lock(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let local = tokio::task::LocalSet::new();
    let served = local.block_on(&runtime, async {
        tokio::select! {
            served = run(plan, path) => served,
            _ = ended() => Ok(()),
        }
    });
    Ok(served?)
}

async fn run(plan: Plan, path: &Path) -> anyhow::Result<()> {
    let since = Instant::now();
    let progress = |text: &str| note(&format!("==> {:4.1} s  {text}", since.elapsed().as_secs_f64()));
    let fleet = Fleet::start(plan, path, &progress).await?;
    let watch = Mutex::new(fleet.watch());
    let lab = std::rc::Rc::new(Lab {
        fleet: Mutex::new(fleet),
        watch,
        folder: path.to_owned(),
        since: Instant::now(),
        down: Notify::new(),
    });
    let listener = UnixListener::bind(path.join(folder::SOCKET)).context("the lab's socket")?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("the lab's socket")?;
                let lab = lab.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = converse(&lab, stream).await {
                        note(&format!("a request was not answered: {error:#}"));
                    }
                });
            }
            () = lab.down.notified() => return Ok(()),
        }
    }
}

/// One request, and the lines that answer it. Work for someone who went away ends.
async fn converse(lab: &Lab, stream: UnixStream) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let request: Request = serde_json::from_str(&line).context("a request that is none")?;
    let (notes, mut inbox) = mpsc::unbounded_channel();
    let tell = |text: &str| {
        // The inbox lives as long as the work.
        let _ = notes.send(text.to_owned());
    };
    let work = answer(lab, &request, &tell);
    tokio::pin!(work);
    let last = loop {
        tokio::select! {
            biased;
            Some(text) = inbox.recv() => writer.write_all(Answer::Note(text).to_line().as_bytes()).await?,
            answered = &mut work => break answered,
        }
    };
    let last = last.map_or_else(|error| Answer::Failed(Failure::from(error)), Answer::Done);
    writer.write_all(last.to_line().as_bytes()).await?;
    writer.shutdown().await?;
    if request == Request::Down {
        lab.down.notify_one();
    }
    Ok(())
}

async fn answer(lab: &Lab, request: &Request, tell: &dyn Fn(&str)) -> anyhow::Result<Value> {
    if let Request::Run { text } = request {
        let verdict = play(&Scenario::parse(text)?, &lab.fleet, tell).await?;
        return Ok(json!({ "holds": verdict.holds(), "text": verdict.to_text() }));
    }
    if *request == Request::Ps {
        return report(lab).await;
    }
    let mut fleet = lab.fleet.lock().await;
    act(&lab.folder, &mut fleet, request).await
}

async fn act(folder: &Path, fleet: &mut Fleet, request: &Request) -> anyhow::Result<Value> {
    let chosen = |nodes: &str| select::nodes(fleet.topology(), nodes);
    let names = |fleet: &Fleet, nodes: &[usize]| -> Value {
        nodes.iter().map(|node| fleet.topology().nodes[*node].name.clone()).collect::<Vec<_>>().into()
    };
    Ok(match request {
        Request::Cut { one, other, is_one_way } => json!(fleet.cut(one, other, *is_one_way)?),
        Request::Bend { one, other, is_one_way, bend } => json!(fleet.bend(one, other, *is_one_way, bend)?),
        Request::Heal { between: Some((one, other)) } => json!(fleet.heal_between(one, other)?),
        Request::Heal { between: None } => {
            let started = fleet.heal().await?;
            names(fleet, &started)
        }
        Request::Freeze { nodes } => {
            let nodes = chosen(nodes)?;
            nodes.iter().try_for_each(|node| fleet.freeze(*node))?;
            names(fleet, &nodes)
        }
        Request::Thaw { nodes } => {
            let nodes = chosen(nodes)?;
            nodes.iter().try_for_each(|node| fleet.thaw(*node))?;
            names(fleet, &nodes)
        }
        Request::Kill { nodes } => {
            let nodes = chosen(nodes)?;
            nodes.iter().for_each(|node| fleet.kill(*node));
            names(fleet, &nodes)
        }
        Request::Start { nodes } => {
            let nodes = chosen(nodes)?;
            for node in &nodes {
                fleet.start_again(*node).await?;
            }
            names(fleet, &nodes)
        }
        Request::Unplug { nodes } => {
            let nodes = fleet.unplug(nodes)?;
            names(fleet, &nodes)
        }
        Request::Plug { nodes } => {
            let nodes = fleet.plug(nodes)?;
            names(fleet, &nodes)
        }
        Request::Rebind { nodes } => {
            let nodes = fleet.rebind(nodes)?;
            names(fleet, &nodes)
        }
        Request::Shell { node } => {
            let node = chosen(node)?[0];
            json!({
                "name": fleet.topology().nodes[node].name,
                "namespace": fleet.network().namespace(node),
                "data_dir": fleet.folder_of(node),
                "keys": fleet.program().keys,
                "program": fleet.program().path,
                "rc": folder.join("shell.rc"),
            })
        }
        Request::Ps | Request::Run { .. } | Request::Down => Value::Null,
    })
}

/// What `ps` shows.
async fn report(lab: &Lab) -> anyhow::Result<Value> {
    let statuses = lab.watch.lock().await.ask("/v1/status").await;
    let mut fleet = lab.fleet.lock().await;
    ensure!(fleet.network().is_forwarding(), "the forwarding thread has ended: nothing passes any more");
    let mut nodes = Vec::new();
    for (node, status) in statuses.iter().enumerate() {
        let (state, pid) = fleet.state(node);
        let place = &fleet.topology().nodes[node];
        let status = status.as_ref().filter(|_| state == State::Running);
        let said = |key: &str| status.map_or(Value::Null, |status| status[key].clone());
        nodes.push(json!({
            "name": place.name,
            "zone": place.zone,
            "address": fleet.network().home(node).address.to_string(),
            "pid": pid,
            "state": state,
            "is_unplugged": fleet.is_unplugged(node),
            "peers_up": status.map(|status| status["peers"]["up"].clone()),
            "root_durable": said("root_durable"),
            "root": said("root"),
            "documents": said("documents"),
            "changes": said("changes"),
            "cpu_percent": fleet.cpu_percent(node),
        }));
    }
    let name = |node: usize| fleet.topology().nodes[node].name.as_str();
    let changed = fleet.network().changed().into_iter().map(|changed| {
        json!({ "from": name(changed.from), "to": name(changed.to), "cut": changed.is_cut, "bend": changed.bend })
    });
    let traffic = fleet.network().traffic();
    Ok(json!({
        "topology": fleet.topology().name,
        "folder": lab.folder,
        "pid": std::process::id(),
        "up_s": lab.since.elapsed().as_secs(),
        "nodes": nodes,
        "changed": changed.collect::<Vec<_>>(),
        "packets": {
            "arrived": traffic.lines.arrived,
            "arrived_bytes": traffic.lines.arrived_bytes,
            "dropped": {
                "cut": traffic.lines.cut,
                "too_long": traffic.lines.too_long,
                "loss": traffic.lines.loss,
                "queue": traffic.lines.queue,
                "flight": traffic.lines.flight,
                "no_line": traffic.lines.no_line,
                "foreign": traffic.foreign,
                "refused": traffic.refused,
                "untranslated": traffic.untranslated,
            },
        },
    }))
}
