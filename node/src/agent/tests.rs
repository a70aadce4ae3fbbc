//! Nodes whose wall clocks are wrong: the wall clock stamps what people read, and decides nothing. And a mesh that never
//! rests. And what a service manager hears.

use std::time::Duration;

use crdt::schema::{DocumentName, Kind, Value};
use crdt::statement::{Assigned, Body};
use serde_json::{Value as Json, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use super::{Inbox, MESH_EVENTS_MAX, Node, NodeEvent, Pulse, Setup, open, run, start};
use crate::clock::Clock;
use crate::fixture::{Fleet, JumpingClock, Running, within};
use crate::supervisor::Supervisor;

/// A day in 2026, milliseconds since 1970.
const TODAY_MS: u64 = 1_790_000_000_000;
const FIFTY_YEARS_MS: u64 = 50 * 31_556_952_000;
/// Forward, back to the start of all clocks, to their end, and home.
const JUMPS: [u64; 5] = [TODAY_MS, TODAY_MS + FIFTY_YEARS_MS, 0, u64::MAX, TODAY_MS];
/// Changes claim no time after the year 9999.
const CLAIM_MS_MAX: u64 = crdt::raw::TIME_MAX_S as u64 * 1000;

/// The age of what a change that was made at one time says, where it is read at another: nothing is younger than new.
fn age_s(read_ms: u64, made_ms: u64) -> u64 {
    (read_ms / 1000).saturating_sub(made_ms.min(CLAIM_MS_MAX) / 1000)
}

fn events(watch: &mut Receiver<NodeEvent>) -> Vec<NodeEvent> {
    let mut events = Vec::new();
    loop {
        match watch.try_recv() {
            Ok(event) => events.push(event),
            Err(TryRecvError::Empty) => return events,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What a node wrote at one time: a change of its own, an operator's change and a statement.
struct Written {
    environment: DocumentName,
    made_ms: u64,
    turn: u64,
}

impl Written {
    async fn on(node: &Running, fleet: &Fleet, turn: u64) -> Written {
        node.write(Kind::Environment, "power.source", Value::Uint(turn)).await;
        fleet.set(node, "camera", "gain", Value::Uint(turn)).await;
        let (device, attribute) = (node.device, format!("label/turn-{turn}"));
        fleet.state(node, Body::Assigned(Assigned { device, attribute, value: Some("x".to_owned()) })).await;
        Written { environment: node.document(Kind::Environment), made_ms: node.clock.wall_ms(), turn }
    }

    async fn is_known(&self, node: &mut Running) -> bool {
        let device = node.get("/v1/devices/a").await;
        let documents = node.get("/v1/documents").await;
        let changes = |name: &str| {
            let found = documents.as_array().unwrap().iter().find(|document| document["document"] == name);
            found.and_then(|document| document["changes"].as_u64()).unwrap_or(0)
        };
        !device["assigned"][self.label()].is_null()
            && [self.environment.as_str(), "config/camera"].iter().all(|name| changes(name) == self.turn + 1)
    }

    fn label(&self) -> String {
        format!("label.turn-{}", self.turn)
    }

    /// Value and age are shown right, whatever the node's clock says.
    async fn is_shown(&self, node: &mut Running) {
        for read_ms in JUMPS {
            node.clock.jump(read_ms);
            let age = json!(age_s(read_ms, self.made_ms));
            for (document, path) in [("config/camera", "gain"), (self.environment.as_str(), "power.source")] {
                let view = node.get(&format!("/v1/document?document={document}")).await;
                let read = &view["values"][path];
                assert_eq!((&read["value"], &read["age_s"]), (&json!(self.turn), &age), "{document}, {read_ms}");
                let log = node.get(&format!("/v1/document/log?document={document}")).await;
                let seq = json!(self.turn + 1);
                let change = log.as_array().unwrap().iter().find(|change| change["seq"] == seq);
                assert_eq!(change.map(|change| &change["age_s"]), Some(&age), "{document}, {read_ms}: {log}");
            }
            let devices = node.get("/v1/devices").await;
            assert_eq!((&devices[0]["name"], &devices[0]["age_s"]), (&json!("a"), &age), "{read_ms}");
            let device = node.get("/v1/devices/a").await;
            assert_eq!(device["facts"]["power.source"]["age_s"], age, "{read_ms}");
            let stated = json!(read_ms.saturating_sub(self.made_ms) / 1000);
            assert_eq!(device["assigned"][self.label()]["age_s"], stated, "{read_ms}");
        }
    }
}

async fn links(node: &mut Running) -> Json {
    node.get("/v1/status").await["peers"]["up"].clone()
}

async fn converge(a: &mut Running, b: &mut Running) {
    within("equal roots", async || a.get("/v1/status").await["root"] == b.get("/v1/status").await["root"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wall_clocks_that_jump_by_years_stop_nothing() {
    let fleet = Fleet::new();
    let mut a = fleet.found("a", JumpingClock::at(TODAY_MS)).await;
    let mut b = fleet.join(&mut a, "b", JumpingClock::at(u64::MAX)).await;
    within("a link", async || links(&mut a).await == 1 && links(&mut b).await == 1).await;
    let mut watches = [a.agent.follow(0).await.unwrap().1, b.agent.follow(0).await.unwrap().1];
    let mut seen = Vec::new();
    for (turn, made_ms) in (0..).zip(JUMPS) {
        a.clock.jump(made_ms);
        // Once it answers, the agent has sent off whatever it stamped before the jump.
        links(&mut a).await;
        seen.extend(watches.iter_mut().flat_map(events));
        let written = Written::on(&a, &fleet, turn).await;
        let stamped = events(&mut watches[0]);
        let kinds: Vec<&str> = stamped.iter().map(|event| event.event).collect();
        assert!(kinds.contains(&"change") && kinds.contains(&"statement"), "{kinds:?}");
        assert!(stamped.iter().all(|event| event.time_ms == made_ms), "{made_ms}: {stamped:?}");
        seen.extend(stamped);
        written.is_shown(&mut a).await;
        within("what a wrote, on b", async || written.is_known(&mut b).await).await;
        written.is_shown(&mut b).await;
        converge(&mut a, &mut b).await;
    }
    seen.extend(watches.iter_mut().flat_map(events));
    let losses: Vec<_> = seen.iter().filter(|event| event.event == "link down" || event.event == "refused").collect();
    assert!(losses.is_empty(), "{losses:?}");
    assert!(seen.iter().all(|event| JUMPS.contains(&event.time_ms)), "another clock than the node's: {seen:?}");

    // A link that is lost at the end of time is written down as such, and comes back.
    a.clock.jump(u64::MAX);
    b.stop().await;
    within("no link", async || links(&mut a).await == 0).await;
    a.clock.jump(0);
    let devices = a.get("/v1/devices").await;
    assert_eq!((&devices[1]["name"], &devices[1]["away_since_ms"]), (&json!("b"), &json!(u64::MAX)));
    a.write(Kind::Environment, "power.source", Value::Null).await;
    let mut b = fleet.run("b", JumpingClock::at(TODAY_MS)).await;
    within("a link again", async || links(&mut a).await == 1).await;
    converge(&mut a, &mut b).await;
    a.stop().await;
    b.stop().await;
}

/// Requests are answered while there is always one more event of the mesh.
#[tokio::test]
async fn a_mesh_that_never_rests_does_not_keep_requests_waiting() {
    const EVENTS: usize = 10_000;
    let fleet = Fleet::new();
    let (agent, _plane, node, inbox) = open(fleet.founded("a", JumpingClock::at(TODAY_MS))).unwrap();
    let (events, flood) = tokio::sync::mpsc::channel(EVENTS);
    for _ in 0..EVENTS {
        events.try_send(transport::Event::Resync).unwrap();
    }
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(run(node, Inbox { mesh: flood, ..inbox }, stopped));
    let taken_before = || {
        let events = events.clone();
        agent.look(move |_| events.capacity())
    };
    let taken = tokio::join!(taken_before(), taken_before(), taken_before());
    for (turn, taken) in (1..).zip([taken.0, taken.1, taken.2]) {
        let taken = taken.unwrap();
        assert!(taken <= turn * MESH_EVENTS_MAX as usize, "{taken} events went before request {turn}");
    }
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_to_join_has_an_age_by_any_clock() {
    let fleet = Fleet::new();
    let mut a = fleet.found("a", JumpingClock::at(TODAY_MS)).await;
    let (_, mut watch) = a.agent.follow(0).await.unwrap();
    let asking = fleet.ask(&mut a, "b", JumpingClock::at(0)).await;
    within("a wish", async || a.get("/v1/wishes").await[0]["name"] == "b").await;
    let wishes = events(&mut watch);
    assert!(wishes.iter().any(|event| (event.event, event.time_ms) == ("wants to join", TODAY_MS)), "{wishes:?}");
    for read_ms in JUMPS {
        a.clock.jump(read_ms);
        let wishes = a.get("/v1/wishes").await;
        assert_eq!(wishes[0]["age_s"], json!(read_ms.saturating_sub(TODAY_MS) / 1000), "{read_ms}");
    }
    asking.abort();
    a.stop().await;
}

/// What a device runs on makes its links dearer for all, and cheap again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_on_battery_says_so_of_its_links() {
    let fleet = Fleet::new();
    let mut a = fleet.found("a", JumpingClock::at(TODAY_MS)).await;
    let mut b = fleet.join(&mut a, "b", JumpingClock::at(TODAY_MS)).await;
    let cost_ms = async |node: &mut Running, to: &str| {
        let route = node.get(&format!("/v1/routes/{to}")).await;
        route["ways"][0]["cost_ms"].as_f64()
    };
    within("a way", async || cost_ms(&mut a, "b").await.is_some() && cost_ms(&mut b, "a").await.is_some()).await;
    b.write(Kind::Environment, "power.source", Value::Text("battery".to_owned())).await;
    within("a dear way, on both sides", async || {
        cost_ms(&mut a, "b").await >= Some(20.0) && cost_ms(&mut b, "a").await >= Some(20.0)
    })
    .await;
    b.write(Kind::Environment, "power.source", Value::Text("mains".to_owned())).await;
    within("a cheap way", async || cost_ms(&mut a, "b").await < Some(20.0) && cost_ms(&mut b, "a").await < Some(20.0))
        .await;
    a.stop().await;
    b.stop().await;
}

/// A device whose processors are at their limit for half a minute is asked less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_device_says_so_of_its_links() {
    let fleet = Fleet::new();
    let mut a = fleet.found("a", JumpingClock::at(TODAY_MS)).await;
    let mut b = fleet.join(&mut a, "b", JumpingClock::at(TODAY_MS)).await;
    let is_dear = async |node: &mut Running, to: &str| {
        let route = node.get(&format!("/v1/routes/{to}")).await;
        route["ways"][0]["cost_ms"].as_f64().map(|cost| cost >= 10.0)
    };
    within("a cheap way", async || is_dear(&mut a, "b").await == Some(false)).await;
    for (permille, is_busy) in [(1_000, true), (300, false)] {
        b.write(Kind::Resource, "cpu.utilisation_permille", Value::Uint(permille)).await;
        let is_read = async || {
            let devices = b.get("/v1/devices").await;
            let own = devices.as_array().unwrap().iter().find(|device| device["name"] == "b").unwrap().clone();
            own["cpu_utilisation_permille"] == json!(permille)
        };
        within("the reading is there", is_read).await;
        b.clock.skip(Duration::from_secs(31));
        within("others hear of it", async || is_dear(&mut a, "b").await == Some(is_busy)).await;
    }
    a.stop().await;
    b.stop().await;
}

/// The watchdog's signs of life come from the agent's task: none while that is stuck, whatever else runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_agent_gives_no_sign_of_life() {
    const WATCHDOG: Duration = Duration::from_millis(20);
    let fleet = Fleet::new();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = tokio::net::UnixDatagram::bind(&socket).unwrap();
    let heard = async || {
        let mut bytes = [0; 256];
        manager
            .recv(&mut bytes)
            .await
            .map(|_| bytes.starts_with(b"WATCHDOG=1\nSTATUS=linked with 0 of 0 others, "))
            .unwrap()
    };
    let supervisor = Supervisor::at(socket.as_os_str(), Some(WATCHDOG)).unwrap();
    let pulse = Some(Pulse::new(supervisor, tokio::time::Instant::now()));
    let setup = fleet.founded("a", JumpingClock::at(TODAY_MS));
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (agent, _plane, task) = start(Setup { pulse, ..setup }, stopped).unwrap();
    assert!(heard().await && heard().await);

    let (release, released) = std::sync::mpsc::channel::<()>();
    let (entered, is_stuck) = tokio::sync::oneshot::channel();
    let stuck = tokio::spawn(async move {
        let stick = move |_: &Node| {
            entered.send(()).unwrap();
            // An error means that the test is over.
            let _ = released.recv();
        };
        agent.look(stick).await
    });
    is_stuck.await.unwrap();
    // What was sent before that.
    while manager.try_recv(&mut [0; 256]).is_ok() {}
    let silence = tokio::time::timeout(WATCHDOG * 10, heard()).await;
    assert!(silence.is_err(), "something else than the agent spoke");
    release.send(()).unwrap();
    stuck.await.unwrap().unwrap();
    assert!(heard().await);
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
}
