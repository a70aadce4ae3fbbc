//! `run`: the daemon.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use collectors::Collector;
use crdt::id::FleetId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use transport::{Listen, Reaching};

use super::{Common, Failure, Outcome, code, ticket};
use crate::agent::bulk::DEFAULT_BULK_PORT;
use crate::agent::{self, BulkPort, MeshSetup, Pulse, Setup};
use crate::api::{self, Api};
use crate::blobs::{Blobs, Limits, Service};
use crate::clock::SystemClock;
use crate::folder::{Folder, FolderError, NodeFile};
use crate::keys::quoted;
use crate::output::note;
use crate::settings::Settings;
use crate::store::{OpenError, Store};
use crate::supervisor::Supervisor;
use crate::telemetry::{Explain, Plan, Telemetry};

/// The mesh's port where none is asked for.
const DEFAULT_PORT: u16 = 4410;

/// `run`
#[derive(Args)]
pub(crate) struct RunArgs {
    /// Join with this ticket first; ignored when already a member [env: FLEETSYNC_TICKET, or FLEETSYNC_TICKET_FILE, a
    /// file that is waited for]
    #[arg(long, value_name = "TICKET")]
    join: Option<String>,
    /// Local addresses of the mesh, joined by commas
    #[arg(long, value_name = "IP,…")]
    listen: Option<String>,
    /// The mesh's port, UDP and TCP; 0 for a free one
    #[arg(long)]
    port: Option<u16>,
    /// Find members on the local network by multicast DNS: true or false
    #[arg(long)]
    mdns: Option<bool>,
    /// Replay the files of this folder in place of this machine's
    #[arg(long, value_name = "DIR")]
    replay: Option<PathBuf>,
    /// Log filter: LEVEL or TARGET=LEVEL, joined by commas
    #[arg(long)]
    log: Option<String>,
    /// text or json
    #[arg(long)]
    log_format: Option<String>,
}

fn start_logging(settings: &Settings) -> Result<(), Failure> {
    let filter = settings.text("log").unwrap_or("info");
    let filter: Targets = filter.parse().map_err(|error| {
        Failure::new(code::USAGE, "the log filter is malformed").cause(error).hint("fleetsync run --log info")
    })?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal);
    let filtered = tracing_subscriber::registry().with(filter);
    match settings.text("log_format") {
        Some("json") => filtered.with(lines.json()).init(),
        Some("text") | None => filtered.with(lines).init(),
        Some(other) => {
            return Err(Failure::new(code::USAGE, format!("{other:?} is no log format"))
                .hint("fleetsync run --log-format json"));
        }
    }
    Ok(())
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        let failure = Failure::new(code::REFUSED, "the store cannot be opened");
        match &error {
            OpenError::Damaged { .. } => failure
                .cause(format!(
                    "{error}; moved away, the data folder can be made anew with a ticket of another member. What other \
                     nodes have comes back then; what no other got does not: what was written here while this node was \
                     cut off, and everything where it was the only one"
                ))
                .hint("fleetsync member invite --name NAME  # on another member"),
            OpenError::NewerFormat { .. } => {
                failure.cause(format!("{error}: a newer version of fleetsync wrote it")).hint("fleetsync --version")
            }
            OpenError::Permission(path) => {
                let hint = format!("ls -ld {}", quoted(path));
                failure.cause(format!("{error}: run as the user that owns it")).hint(hint)
            }
            OpenError::Locked => failure.cause(error).hint("fleetsync status"),
            _ => failure.cause(error).hint("df -h"),
        }
    }
}

/// Says that the node is not to be reached by others: it dials them.
const DIAL_ONLY: &str = "none";

pub(super) fn listen_on(settings: &Settings, node: &NodeFile) -> Result<(Listen, bool), Failure> {
    let text = settings.text("listen").unwrap_or("0.0.0.0,::");
    let parsed = text.split(',').filter(|_| text != DIAL_ONLY).map(|ip| ip.trim().parse::<IpAddr>());
    let ips = parsed.collect::<Result<Vec<_>, _>>().map_err(|error| {
        Failure::new(code::USAGE, format!("{text:?}: {error}")).hint("fleetsync run --listen 0.0.0.0,::")
    })?;
    let asked = match settings.text("port") {
        Some(_) => Some(settings.parse::<u16>("port", "a port number")?),
        None => None,
    };
    let port = match (asked, node.port) {
        (Some(0), Some(kept)) | (None, Some(kept)) => kept,
        (Some(port), _) => port,
        (None, None) => DEFAULT_PORT,
    };
    // Only a port that a person named is insisted on.
    let is_fixed = asked.is_some_and(|port| port != 0);
    Ok((Listen { ips, port }, is_fixed))
}

/// What may be sent of blobs.
fn limits(settings: &Settings) -> Result<Limits, Failure> {
    Ok(Limits {
        own: settings.parse("bulk.max_rate", "a number of bytes a second")?,
        relayed: settings.parse("relay.max_rate", "a number of bytes a second")?,
    })
}

/// A port that a person named is insisted on; the one that was kept is preferred.
fn bulk_port(settings: &Settings, node: &NodeFile) -> Result<BulkPort, Failure> {
    let otherwise = if settings.text("port") == Some("0") { 0 } else { DEFAULT_BULK_PORT };
    Ok(match settings.text("bulk.port") {
        None => BulkPort::Preferred(node.bulk_port.unwrap_or(otherwise)),
        Some("0") => BulkPort::Preferred(node.bulk_port.unwrap_or(0)),
        Some(_) => BulkPort::Fixed(settings.parse("bulk.port", "a port number")?),
    })
}

fn collector(settings: &Settings, fleet: FleetId) -> Result<Collector, Failure> {
    if let Some(folder) = settings.text("telemetry.replay") {
        return Collector::replay(folder, fleet).map_err(|error| {
            Failure::new(code::USAGE, "the replay cannot be used").cause(error).hint(format!("ls {folder}"))
        });
    }
    match settings.text("telemetry.root") {
        None | Some("/") => Ok(Collector::live(fleet)),
        Some(root) => {
            let system = Arc::new(collectors::LiveSystem);
            Ok(Collector::at_root(std::path::Path::new(root), system, fleet))
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(common: &Common, args: RunArgs) -> Outcome {
    let flags = [
        ("listen", args.listen.clone()),
        ("port", args.port.map(|port| port.to_string())),
        ("mdns", args.mdns.map(|mdns| mdns.to_string())),
        ("telemetry.replay", args.replay.as_ref().map(|path| path.display().to_string())),
        ("log", args.log.clone()),
        ("log_format", args.log_format.clone()),
    ];
    let settings = common.settings(&flags)?;
    start_logging(&settings)?;
    silence_guarded_panics();
    let supervisor = Supervisor::of_process();
    let path = common.data_dir()?;
    let (folder, node) = tokio::select! {
        member = ticket::member(&path, ticket::source(args.join.as_ref()), supervisor.as_ref()) => member?,
        // As process 1 of a container it would not end by itself.
        () = wait_for_signal() => return Ok(()),
    };
    let fleet: FleetId = node.fleet.parse().map_err(|_| malformed(&folder))?;
    let collector = collector(&settings, fleet)?;
    let plan = Plan {
        interval_min_ms: settings.parse("telemetry.interval_min_ms", "a number of milliseconds")?,
        budget_bytes_per_s: settings.parse("telemetry.budget_bytes_per_s", "a number of bytes")?,
    };
    serve(folder, node, fleet, &settings, (collector, plan), supervisor).await
}

fn malformed(folder: &Folder) -> Failure {
    FolderError::Malformed(folder.path().join("node.json")).into()
}

async fn serve(
    folder: Folder,
    node: NodeFile,
    fleet: FleetId,
    settings: &Settings,
    (collector, plan): (Collector, Plan),
    supervisor: Option<Supervisor>,
) -> Outcome {
    let (path, blobs_folder) = (folder.path().to_owned(), folder.blobs());
    let store = Store::open(&folder.store())?;
    store.check_all().map_err(OpenError::from)?;
    let incarnation = u64::from_str_radix(&node.incarnation, 16).map_err(|_| malformed(&folder))?;
    let (listen, is_fixed) = listen_on(settings, &node)?;
    let listen = free_port(listen, is_fixed)?;
    let is_reachable = !listen.ips.is_empty();
    if is_reachable && node.port != Some(listen.port) {
        folder.write_node(&NodeFile { port: Some(listen.port), ..node.clone() })?;
    }
    let (stop, stopped) = oneshot::channel();
    let clock = Arc::new(SystemClock::new());
    let key = folder.device_key()?;
    let mdns = settings.parse("mdns", "true or false")?;
    let is_metered = settings.parse("metered", "true or false")?;
    let reach = Reaching {
        relay: settings.parse("relay.circuits", "true or false")?,
        dcutr: settings.parse("dcutr", "true or false")?,
        autonat: settings.parse("autonat", "true or false")?,
    };
    let limits = limits(settings)?;
    let mesh = MeshSetup {
        listen: listen.clone(),
        mdns,
        reach,
        is_metered,
        bulk_port: bulk_port(settings, &node)?,
        bulk_backfill: settings.parse("bulk.backfill", "true or false")?,
        relay_rate: limits.relayed,
    };
    let pulse = supervisor.clone().map(|supervisor| Pulse::new(supervisor, Instant::now()));
    let setup = Setup { folder, store, fleet, incarnation, key, clock, mesh, pulse };
    let blobs = Blobs::open(&blobs_folder)
        .map_err(|error| Failure::new(code::REFUSED, "the blobs cannot be read").cause(error).hint("df -h"))?;
    let (agent, plane, mut task) = agent::start(setup, stopped).map_err(|error| {
        Failure::new(code::REFUSED, "the node did not start").cause(error).hint("fleetsync node config")
    })?;
    let blobs = Service::start(agent.clone(), plane, blobs, limits);
    let socket = path.join("api.sock");
    let listener = api::bind(&socket).map_err(|error| {
        Failure::new(code::REFUSED, "the API did not start").cause(error).hint(format!("ls -l {}", socket.display()))
    })?;
    let explain = Explain::default();
    let device =
        agent.look(|node| node.device()).await.map_err(|error| Failure::new(code::REFUSED, error.to_string()))?;
    let telemetry = Telemetry::start(collector, plan, agent.clone(), device, explain.clone());
    let (end_api, api_ended) = oneshot::channel::<()>();
    let api = Api::new(agent, blobs, explain, settings.clone());
    let server = tokio::spawn(api::serve(listener, api, async {
        // An error means that the sender is gone, which ends the API as well.
        let _ = api_ended.await;
    }));
    let place = if is_reachable { format!("on port {}", listen.port) } else { "dials only".to_owned() };
    note(&format!("ready: {} {place}, API {}", device.short(), socket.display()));
    tracing::info!(node = %device, port = listen.port, "ready");
    supervisor.iter().for_each(Supervisor::ready);
    tokio::select! {
        () = wait_for_signal() => {}
        ended = &mut task => {
            // Nothing answers any more: better no process than one that looks alive.
            return match ended {
                Ok(Ok(())) => Err(failed("its task ended")),
                Ok(Err(error)) => Err(failed(error)),
                Err(error) => Err(failed(error)),
            };
        }
    }
    tracing::info!("stopping");
    supervisor.iter().for_each(Supervisor::stopping);
    telemetry.stop();
    let _ = end_api.send(());
    let _ = stop.send(());
    task.await.map_err(failed)?.map_err(failed)?;
    server.abort();
    Ok(())
}

fn failed(cause: impl std::fmt::Display) -> Failure {
    Failure::new(code::REFUSED, "the node failed").cause(cause).hint("fleetsync run")
}

/// A port that a person named must be free; any other is exchanged for a free one, which is kept.
fn free_port(listen: Listen, is_fixed: bool) -> Result<Listen, Failure> {
    if listen.port == 0 && !listen.ips.is_empty() {
        return pick(listen);
    }
    for ip in listen.ips.iter().filter(|ip| ip.is_ipv4()) {
        if is_free(*ip, listen.port)? {
            continue;
        }
        if is_fixed {
            return Err(Failure::new(code::REFUSED, format!("port {} is in use", listen.port))
                .hint("fleetsync run --port 0  # for a free one"));
        }
        note(&format!("port {} is in use: a free one is picked and kept", listen.port));
        return pick(listen);
    }
    Ok(listen)
}

/// Whether nobody listens there, with UDP or TCP. What cannot be listened on at all is a failure.
pub(super) fn is_free(ip: IpAddr, port: u16) -> Result<bool, Failure> {
    let bound = UdpSocket::bind((ip, port)).and_then(|_| TcpListener::bind((ip, port)));
    match bound {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(false),
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::PermissionDenied => "fleetsync run --port 0  # for one that every user may have",
                _ => "ip address  # lists the addresses of this machine",
            };
            Err(Failure::new(code::REFUSED, format!("the mesh cannot listen on {ip} port {port}"))
                .cause(error)
                .hint(hint))
        }
    }
}

fn pick(listen: Listen) -> Result<Listen, Failure> {
    for _ in 0..32 {
        let ip = listen.ips.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        is_free(ip, 0)?;
        let Ok(address) = UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr()) else { continue };
        if is_free(ip, address.port())? {
            return Ok(Listen { port: address.port(), ..listen });
        }
    }
    Err(Failure::new(code::REFUSED, "no port is free for UDP and TCP").hint("ss -lntu"))
}

async fn wait_for_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Hostile changes may make Automerge panic; the gate catches that, and says so once, without a backtrace.
fn silence_guarded_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let is_automerge = info.location().is_some_and(|location| location.file().contains("automerge"));
        if is_automerge {
            tracing::warn!("a change made Automerge panic and was refused");
        } else {
            default(info);
        }
    }));
}
