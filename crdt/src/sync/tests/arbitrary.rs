//! Whatever peers, stores and clocks give an engine: it never panics, and nothing grows past its limits.

use proptest::collection::vec;
use proptest::prelude::*;

use super::cluster::Cluster;
use super::fleet::key_of;
use crate::id::{Actor, ChangeHash, DeviceId, Root, StatementId, Time};
use crate::root::BUCKETS;
use crate::schema::{DocumentName, Kind, Value};
use crate::statement::{SignatureBytes, StatementParts};
use crate::sync::frame::{
    Ask, Changes, Credit, Difference, End, Fragment, Frame, Hello, Items, Name, PROTOCOL_RANGE, Parts, Place, PlaceOf,
    RANGE_BUCKETS, RANGES, Ranges, Request, Scope, Statement,
};
use crate::sync::link::CONTROL_BYTES_MAX;
use crate::sync::missing::MISSING_MAX;
use crate::sync::{Channel, Edit, Effect, Input, LINKS_MAX, LinkId, Parents, RequestId, Token};

/// Numbers at their limits, and between.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), 2..40u64, Just(u64::MAX), Just(u64::from(u32::MAX)), any::<u64>()]
}

fn place() -> impl Strategy<Value = Place> {
    (number(), number()).prop_map(|(generation, position)| Place { generation, position })
}

/// What a frame names: things that are there, and others.
#[derive(Debug, Clone)]
struct World {
    actors: Vec<Actor>,
    statements: Vec<StatementParts>,
    hashes: Vec<ChangeHash>,
    cluster: ClusterParts,
}

#[derive(Debug, Clone)]
struct ClusterParts {
    fleet: crate::id::FleetId,
    devices: Vec<DeviceId>,
    logs: Vec<crate::change::LogName>,
    changes: Vec<(Vec<crate::change::RawBytes>, SignatureBytes)>,
    root: Root,
}

fn pick<T: Clone + std::fmt::Debug + 'static>(items: &[T], other: T) -> impl Strategy<Value = T> + use<T> {
    let all: Vec<T> = items.iter().cloned().chain([other]).collect();
    proptest::sample::select(all)
}

fn small_frames(world: &World) -> BoxedStrategy<Frame> {
    let actor = || pick(&world.actors, Actor([9; 16]));
    let hash = || pick(&world.hashes, ChangeHash([9; 32])).prop_map(|hash| hash.0);
    let device = || pick(&world.cluster.devices, DeviceId([9; 32]));
    let ids = world.statements.iter().map(|parts| StatementId(*blake3::hash(&parts.bytes).as_bytes()));
    let ids: Vec<StatementId> = ids.collect();
    let statement = move || pick(&ids, StatementId([9; 32]));
    let root = world.cluster.root;
    let ask = (0u8..5, any::<bool>(), 0u32..3, vec((device(), 0u8..2), 0..3), vec(any::<u8>(), 0..3));
    let of_statement = pick(&world.statements, StatementParts { bytes: vec![1], signatures: vec![] });
    prop_oneof![
        vec((actor(), number()), 0..4).prop_map(Frame::Have),
        vec((actor(), number()), 0..4).prop_map(Frame::Want),
        vec(hash(), 0..4).prop_map(Frame::WantHash),
        vec((statement(), any::<u32>()), 0..4).prop_map(Frame::HaveStatements),
        prop_oneof![Just(root), Just(Root([1; 32]))].prop_map(Frame::Root),
        number().prop_map(Frame::Probe),
        number().prop_map(Frame::ProbeAnswer),
        (number(), number()).prop_map(|(received, limit)| Frame::Credit(Credit { received, limit })),
        (place(), any::<u8>(), any::<bool>()).prop_map(|(place, items_bits, is_equal)| Frame::Place(PlaceOf {
            place,
            items_bits,
            is_equal
        })),
        ask.prop_map(|(mode, others, first, named, origins)| Frame::Ask(Ask { mode, others, first, named, origins })),
        (of_statement, proptest::option::of(device()))
            .prop_map(|(parts, origin)| Frame::Statement(Statement { origin, parts })),
    ]
    .boxed()
}

fn compared_frames(world: &World) -> BoxedStrategy<Frame> {
    let logs = vec((pick(&world.actors, Actor([9; 16])), number(), any::<u32>()), 0..4);
    let end = prop_oneof![
        Just(End::Cursor),
        (0..3u64, place()).prop_map(|(number, place)| End::Comparison(number, place)),
        (0..3u64).prop_map(End::Request),
        Just(End::Part),
        any::<bool>().prop_map(End::Statements),
    ];
    let items = vec((any::<[u8; 3]>(), any::<u8>(), number()), 0..4);
    let prints = prop_oneof![Just(0), Just(RANGES)];
    let bucket = 0..BUCKETS as u16;
    prop_oneof![
        (0..3u64, place(), prints, any::<[u8; 6]>()).prop_map(|(number, place, count, print)| {
            Frame::Ranges(Ranges { number, place, prints: vec![print; count] })
        }),
        (0..3u64, any::<u8>(), any::<[u8; 6]>()).prop_map(|(number, range, print)| Frame::Parts(Parts {
            number,
            ranges: vec![(range, [print; RANGE_BUCKETS])]
        })),
        (0..3u64, vec((bucket, items), 0..4), any::<bool>()).prop_map(|(number, mut buckets, is_last)| {
            buckets.sort_by_key(|(bucket, _)| *bucket);
            buckets.dedup_by_key(|(bucket, _)| *bucket);
            Frame::Items(Items { number, buckets, is_last })
        }),
        (0..3u64, any::<u16>(), any::<[u8; 3]>(), any::<bool>()).prop_map(|(number, bucket, id, is_last)| {
            Frame::Request(Request { number, ids: vec![(bucket, id)], is_last })
        }),
        (logs, proptest::option::of(end)).prop_map(|(logs, end)| Frame::Difference(Difference {
            logs,
            statements: vec![],
            end
        })),
    ]
    .boxed()
}

fn payload_frames(world: &World) -> BoxedStrategy<Frame> {
    let parts = world.cluster.clone();
    let scope =
        (prop_oneof![Just(parts.root), Just(Root([2; 32]))], number(), proptest::option::of((number(), number())));
    let fleet = parts.fleet;
    let hello = scope.prop_map(move |(root, generation, cursor)| {
        let scope = Scope { name: "fleet".to_owned(), root, generation, cursor };
        Frame::Hello(Hello { protocol: PROTOCOL_RANGE, fleet, chain: vec![], scopes: vec![scope], frame_bytes_max: 1 })
    });
    let changes = proptest::sample::select(parts.changes.clone());
    prop_oneof![
        3 => hello,
        1 => (0u32..4, proptest::sample::select(parts.logs)).prop_map(|(number, log)| Frame::Name(Name { number, log })),
        1 => (0u32..4, number(), changes).prop_map(|(number, first_seq, (changes, signature))| {
            Frame::Changes(Changes { number, first_seq, changes, signature })
        }),
        1 => (any::<bool>(), vec(any::<u8>(), 0..50))
            .prop_map(|(is_last, bytes)| Frame::Fragment(Fragment { is_last, bytes })),
    ]
    .boxed()
}

#[derive(Debug, Clone)]
enum Act {
    Frame(u64, Channel, Vec<u8>),
    Dropped(u64, Channel, Vec<u8>),
    Up(u64, usize, bool),
    Down(u64),
    Writable(u64, Channel, usize),
    Persisted(u64),
    Pass(u64),
    Write(u64),
    Resync,
    Probe(u64),
    Parents(usize, usize),
}

fn acts(world: &World) -> impl Strategy<Value = Vec<Act>> + use<> {
    let channel = || prop_oneof![Just(Channel::Control), Just(Channel::Data)];
    let frames = prop_oneof![4 => small_frames(world), 4 => compared_frames(world), 3 => payload_frames(world)];
    let bytes = prop_oneof![20 => frames.prop_map(|frame| frame.encode()), 1 => vec(any::<u8>(), 0..40)];
    let link = || 1..4u64;
    let act = prop_oneof![
        16 => (link(), channel(), bytes).prop_map(|(link, channel, bytes)| Act::Frame(link, channel, bytes)),
        1 => (link(), channel(), vec(Just(23u8), 0..3)).prop_map(|(link, channel, bytes)| Act::Dropped(link, channel, bytes)),
        3 => (link(), 0..4usize, any::<bool>()).prop_map(|(link, peer, dialled)| Act::Up(link, peer, dialled)),
        1 => link().prop_map(Act::Down),
        2 => (link(), channel(), prop_oneof![Just(usize::MAX), 0..100_000usize])
            .prop_map(|(link, channel, bytes)| Act::Writable(link, channel, bytes)),
        2 => prop_oneof![Just(u64::MAX), 0..20u64].prop_map(Act::Persisted),
        3 => prop_oneof![0..1_000_000u64, Just(31_000_000), Just(3_600_000_000)].prop_map(Act::Pass),
        1 => number().prop_map(Act::Write),
        1 => Just(Act::Resync),
        1 => link().prop_map(Act::Probe),
        1 => (0..4usize, 0..4usize).prop_map(|(origin, source)| Act::Parents(origin, source)),
    ];
    vec(act, 1..120)
}

/// A cluster of two, what frames may name of it, and the peers' keys; the last one is a stranger's.
fn cluster() -> (Cluster, World) {
    let mut cluster = Cluster::new(3, 77);
    cluster.connect_all();
    for kind in [Kind::Device, Kind::Link] {
        for node in 0..3 {
            cluster.write(node, kind, "a", Value::Int(1));
        }
    }
    cluster.set(0, 0, "a", Some(Value::Int(1)));
    cluster.run_until_quiescent();
    let replica = cluster.nodes[0].engine.replica();
    let states: Vec<_> = replica.logs().iter().map(|log| (log.actor(), log.state())).collect();
    let run = |(actor, state): &(Actor, crate::sync::LogState)| {
        let store = &cluster.nodes[0].store;
        crate::sync::read_run(store, crate::store::Table::Change, &state.log, actor, 1, state.seq).unwrap().unwrap()
    };
    let runs: Vec<_> = states.iter().map(run).collect();
    let world = World {
        actors: states.iter().map(|(actor, _)| *actor).collect(),
        hashes: states.iter().map(|(_, state)| state.head).collect(),
        statements: replica.roster().entries().values().map(|entry| entry.signed.parts()).collect(),
        cluster: ClusterParts {
            fleet: cluster.fleet.id,
            devices: (0..3).map(|number| cluster.device(number)).collect(),
            logs: states.iter().map(|(_, state)| state.log.clone()).collect(),
            changes: runs.into_iter().map(|run| (run.changes, run.signature)).collect(),
            root: replica.root(),
        },
    };
    cluster.cut_all();
    (cluster, world)
}

fn input_of(cluster: &Cluster, now: &mut u64, act: Act) -> Input {
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[77; 32]);
    match act {
        Act::Frame(link, channel, bytes) => Input::Frame { link: LinkId(link), channel, bytes },
        Act::Dropped(link, channel, bytes) => Input::Dropped { link: LinkId(link), channel, bytes },
        Act::Up(link, peer, dialled) => {
            let peer = key_of(cluster.fleet.devices.get(peer).unwrap_or(&stranger));
            Input::LinkUp { link: LinkId(link), peer, dialled }
        }
        Act::Down(link) => Input::LinkDown(LinkId(link)),
        Act::Writable(link, channel, bytes) => Input::Writable { link: LinkId(link), channel, bytes },
        Act::Persisted(token) => Input::Persisted(Token(token)),
        Act::Pass(micros) => {
            *now += micros;
            Input::Timer
        }
        Act::Write(value) => {
            let document = DocumentName::of_device(Kind::Device, &cluster.device(0));
            let value = Some(Value::Uint(value));
            let edits = vec![Edit { path: "a".to_owned(), value }];
            Input::Write { request: RequestId(1), document, edits }
        }
        Act::Resync => Input::Resync,
        Act::Probe(link) => Input::Probe(LinkId(link)),
        Act::Parents(origin, source) => {
            let device = |number: usize| cluster.fleet.devices.get(number).map(|key| key_of(key).device());
            let (origin, sources) = (device(origin).unwrap_or(DeviceId([8; 32])), device(source).into_iter().collect());
            Input::Parents(vec![Parents { origin, sources }])
        }
    }
}

#[test]
fn arbitrary_inputs_neither_panic_nor_grow_past_the_limits() {
    let (cluster, world) = cluster();
    let mut runner = proptest::test_runner::TestRunner::new(crate::fixture::cases(64));
    let run = |acts: Vec<Act>| {
        let mut engine = cluster.nodes[0].engine.clone();
        let mut store = cluster.nodes[0].store.clone();
        let mut now = cluster.now.0;
        for act in acts {
            let input = input_of(&cluster, &mut now, act);
            engine.handle(Time(now), input, &store);
            let mut effects = 0;
            while let Some(effect) = engine.poll_effect() {
                effects += 1;
                prop_assert!(effects < 10_000, "one input has no end of effects");
                if let Effect::Persist { batch, .. } = effect {
                    store.apply(&batch);
                }
            }
            prop_assert!(engine.links.len() <= LINKS_MAX);
            prop_assert!(engine.pending().1 <= 64 << 20);
            prop_assert!(engine.missing.len() <= MISSING_MAX);
            for link in engine.links.values() {
                prop_assert!(link.control_bytes <= CONTROL_BYTES_MAX);
            }
        }
        Ok(())
    };
    runner.run(&acts(&world), run).unwrap();
}
