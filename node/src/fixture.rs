//! What the tests of this crate share: a fleet whose nodes run in this process, each with a wall clock that tests set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crdt::change::sign;
use crdt::id::{DeviceId, FleetId, Time};
use crdt::schema::{DocumentName, Kind, Value};
use crdt::statement::{Body, Invitation};
use crdt::sync::{Edit, Input, Reply};
use crdt::ticket::{Address, SignedInvitation, Ticket};
use ed25519_dalek::SigningKey;
use serde_json::Value as Json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transport::{Listen, Reaching};

use crate::agent::{self, Agent, BulkPort, MeshSetup, Setup};
use crate::api::{self, Api};
use crate::blobs::{Blobs, Limits, Service};
use crate::client::Client;
use crate::clock::{Clock, SystemClock};
use crate::folder::{Folder, random};
use crate::identity::{FirstDevice, ask_to_join, found, genesis, join, public};
use crate::settings::Settings;
use crate::store::Store;
use crate::telemetry::Explain;

/// How long anything may take that is waited for.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Waits until a condition holds, [`DEADLINE`] at most.
pub(crate) async fn within(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// A clock whose wall is set by hand, while its monotonic part runs on, and skips time where it is told to.
pub(crate) struct JumpingClock {
    machine: SystemClock,
    skipped_micros: AtomicU64,
    wall_ms: AtomicU64,
}

impl JumpingClock {
    pub(crate) fn at(wall_ms: u64) -> Arc<JumpingClock> {
        Arc::new(JumpingClock {
            machine: SystemClock::new(),
            skipped_micros: AtomicU64::new(0),
            wall_ms: AtomicU64::new(wall_ms),
        })
    }

    /// Lets time pass for the node.
    pub(crate) fn skip(&self, time: Duration) {
        self.skipped_micros.fetch_add(time.as_micros() as u64, Ordering::SeqCst);
    }

    pub(crate) fn jump(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
    }
}

impl Clock for JumpingClock {
    fn monotonic(&self) -> Time {
        Time(self.machine.monotonic().0 + self.skipped_micros.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }
}

/// A fleet with one operator.
pub(crate) struct Fleet {
    folder: tempfile::TempDir,
    root: SigningKey,
    operator: SigningKey,
}

impl Fleet {
    pub(crate) fn new() -> Fleet {
        let folder = tempfile::tempdir().unwrap();
        let [root, operator] = [random(), random()].map(|seed| SigningKey::from_bytes(&seed));
        Fleet { folder, root, operator }
    }

    fn folder(&self, name: &str) -> Folder {
        Folder::lock(&self.folder.path().join(name)).unwrap()
    }

    /// The folder of the first member.
    fn found_folder(&self, name: &str, clock: &JumpingClock) -> Folder {
        let folder = self.folder(name);
        let device = FirstDevice { name: name.to_owned(), zone: "lab".to_owned(), labels: BTreeMap::new() };
        let genesis = genesis(clock, &self.root);
        found(&folder, clock, genesis, &self.root, &self.operator, device).unwrap();
        folder
    }

    /// Runs the first member.
    pub(crate) async fn found(&self, name: &str, clock: Arc<JumpingClock>) -> Running {
        Running::start(self.found_folder(name, &clock), clock).await
    }

    /// The first member, for a test that runs it itself.
    pub(crate) fn founded(&self, name: &str, clock: Arc<JumpingClock>) -> Setup {
        setup(self.found_folder(name, &clock), clock)
    }

    /// Runs one more member, which joins over one that runs.
    pub(crate) async fn join(&self, over: &mut Running, name: &str, clock: Arc<JumpingClock>) -> Running {
        let folder = self.folder(name);
        let ticket = self.ticket(over, name).await;
        assert_eq!(join(&folder, clock.as_ref(), &ticket).await.unwrap(), name);
        Running::start(folder, clock).await
    }

    /// Runs a member that was stopped.
    pub(crate) async fn run(&self, name: &str, clock: Arc<JumpingClock>) -> Running {
        Running::start(self.folder(name), clock).await
    }

    /// Asks one that runs to let a device in, without a ticket, until the task is ended.
    pub(crate) async fn ask(&self, over: &mut Running, name: &str, clock: Arc<JumpingClock>) -> JoinHandle<()> {
        let (folder, fleet, member) = (self.folder(name), over.fleet, over.addresses().await.remove(0));
        let name = name.to_owned();
        tokio::spawn(async move {
            ask_to_join(&folder, clock.as_ref(), fleet, &member, &name).await.unwrap();
        })
    }

    async fn ticket(&self, over: &mut Running, name: &str) -> Ticket {
        let addresses = over.addresses().await;
        let roster = over.get("/v1/roster").await;
        let secret: [u8; 32] = random();
        let invitation = Invitation {
            key: public(&SigningKey::from_bytes(&secret)),
            name: name.to_owned(),
            zone: "lab".to_owned(),
            labels: BTreeMap::new(),
            not_after_ms: u64::MAX,
        };
        let invitation = Body::Invitation(invitation).into_statement(Some(over.fleet), &[], over.clock.wall_ms());
        Ticket {
            fleet: over.fleet,
            root: roster["root"].as_str().unwrap().parse().unwrap(),
            invitation: SignedInvitation(invitation.sign(&self.operator).parts()),
            secret,
            addresses,
        }
    }

    /// Sets a value of a configuration in the operator's name.
    pub(crate) async fn set(&self, on: &Running, name: &str, path: &str, value: Value) {
        let document = DocumentName::config(name).unwrap();
        let author = public(&self.operator);
        let edits = vec![Edit { path: path.to_owned(), value: Some(value) }];
        let prepare = move |request| Input::Prepare { request, document, author, edits };
        let Reply::Prepared(change) = on.agent.request(prepare).await.unwrap() else { panic!("nothing was prepared") };
        let actor = change.log.actor(&on.fleet);
        let chain = change.chain_before.next(&change.hash().unwrap());
        let signature = sign(&self.operator, &on.fleet, &actor, change.seq, &chain);
        let reply = on.agent.request(move |request| Input::Submit { request, change, signature }).await.unwrap();
        assert!(matches!(reply, Reply::Written { .. }), "{reply:?}");
    }

    /// Says something in the operator's name that replaces nothing.
    pub(crate) async fn state(&self, on: &Running, body: Body) {
        let signed = body.into_statement(Some(on.fleet), &[], on.clock.wall_ms()).sign(&self.operator);
        let statements = vec![signed.parts()];
        let reply = on.agent.request(move |request| Input::Statements { request, statements }).await.unwrap();
        assert!(matches!(reply, Reply::Stored(_)), "{reply:?}");
    }
}

fn setup(folder: Folder, clock: Arc<JumpingClock>) -> Setup {
    let node = folder.node().unwrap();
    Setup {
        store: Store::open(&folder.store()).unwrap(),
        fleet: node.fleet.parse().unwrap(),
        incarnation: u64::from_str_radix(&node.incarnation, 16).unwrap(),
        key: folder.device_key().unwrap(),
        folder,
        clock,
        mesh: MeshSetup {
            listen: Listen::loopback(),
            mdns: false,
            reach: Reaching::NONE,
            is_metered: false,
            bulk_port: BulkPort::Fixed(0),
            bulk_backfill: true,
            relay_rate: 0,
        },
        pulse: None,
    }
}

/// A node that runs: its agent and its API, and a client of it.
pub(crate) struct Running {
    pub(crate) device: DeviceId,
    pub(crate) fleet: FleetId,
    pub(crate) clock: Arc<JumpingClock>,
    pub(crate) agent: Agent,
    pub(crate) api: Api,
    client: Client,
    socket: PathBuf,
    task: JoinHandle<agent::End>,
    stop: oneshot::Sender<()>,
}

impl Running {
    async fn start(folder: Folder, clock: Arc<JumpingClock>) -> Running {
        let socket = folder.path().join("api.sock");
        let setup = setup(folder, Arc::clone(&clock));
        let (fleet, device) = (setup.fleet, public(&setup.key).device());
        let (stop, stopped) = oneshot::channel();
        let blobs = Blobs::open(&setup.folder.blobs()).unwrap();
        let (agent, plane, task) = agent::start(setup, stopped).unwrap();
        let blobs = Service::start(agent.clone(), plane, blobs, Limits::default());
        let settings = Settings::load(&[], &|_| None, Path::new("")).unwrap();
        let api = Api::new(agent.clone(), blobs, Explain::default(), settings);
        let listener = api::bind(&socket).unwrap();
        tokio::spawn(api::serve(listener, api.clone(), std::future::pending()));
        let client = Client::connect(&socket).await.unwrap();
        Running { device, fleet, clock, agent, api, client, socket, task, stop }
    }

    /// Where it takes joins.
    pub(crate) async fn addresses(&mut self) -> Vec<Address> {
        let mut addresses = Vec::new();
        within("an address to join at", async || {
            let roster = self.get("/v1/roster").await;
            addresses = roster["addresses"].as_array().unwrap().iter().map(address_of).collect();
            !addresses.is_empty()
        })
        .await;
        addresses
    }

    /// A document of this device.
    pub(crate) fn document(&self, kind: Kind) -> DocumentName {
        DocumentName::of_device(kind, &self.device)
    }

    /// Sets a value of a document of this device.
    pub(crate) async fn write(&self, kind: Kind, path: &str, value: Value) {
        let document = self.document(kind);
        let edits = vec![Edit { path: path.to_owned(), value: Some(value) }];
        let reply = self.agent.request(move |request| Input::Write { request, document, edits }).await.unwrap();
        assert!(matches!(reply, Reply::Written { .. }), "{reply:?}");
    }

    /// One more client.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.socket).await.unwrap()
    }

    /// Reads a resource of its API.
    pub(crate) async fn get(&mut self, resource: &str) -> Json {
        self.client.get(resource).await.unwrap_or_else(|error| panic!("{resource}: {error}"))
    }

    /// Ends it, and waits until its store is closed.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

fn address_of(json: &Json) -> Address {
    let text = |field: &str| json[field].as_str().unwrap().to_owned();
    Address { peer: text("peer").parse().unwrap(), address: text("address") }
}
