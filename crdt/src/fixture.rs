//! What the tests of this crate share: a generator of numbers, a fleet, writers that are Automerge documents, and a
//! store behind the gate.

use std::collections::BTreeMap;

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, ObjId, ROOT, ReadDoc, ScalarValue};
use ed25519_dalek::SigningKey;

use crate::admission::{Gate, Outcome};
use crate::change::{LogName, RawBytes, Run, sign};
use crate::id::{Actor, ChainHash, ChangeHash, DeviceId, FleetId, Key};
use crate::index::read_key;
use crate::raw::{OpId, hash_of};
use crate::roster::{Judgement, Roster};
use crate::schema::{DocumentName, Kind, Value};
use crate::statement::{Admission, Body, Invitation, Operator, Role, RootKeys, SignedStatement};
use crate::store::{Batch, MemoryStore, Staged};
use crate::view;

/// SplitMix64: the same numbers from the same seed, everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.below(at + 1);
            items.swap(at, other);
        }
    }
}

pub(crate) fn secret(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub(crate) fn public(key: &SigningKey) -> Key {
    Key(key.verifying_key().to_bytes())
}

/// A fleet with one root key, `secret(1)`.
pub(crate) struct Fleet {
    pub(crate) id: FleetId,
    pub(crate) roster: Roster,
}

impl Fleet {
    pub(crate) fn new() -> Fleet {
        let root = RootKeys { keys: vec![public(&secret(1))], threshold: 1 };
        let genesis = Body::Root(root).into_statement(None, &[], 1_000).sign(&secret(1));
        let id = FleetId(genesis.id().0);
        let mut fleet = Fleet { id, roster: Roster::new(id) };
        fleet.take(&genesis);
        fleet
    }

    /// A fleet where `secret(2)` holds the roles enrol, assign and config.
    pub(crate) fn with_operator() -> Fleet {
        let mut fleet = Fleet::new();
        fleet.operator(&secret(2), &[Role::Enrol, Role::Assign, Role::Config]);
        fleet
    }

    pub(crate) fn take(&mut self, signed: &SignedStatement) -> Vec<DeviceId> {
        match self.roster.judge(signed) {
            Judgement::Store(signed) => self.roster.insert(*signed),
            other => panic!("{other:?}: {:?}", signed.statement()),
        }
    }

    pub(crate) fn say(&self, body: Body, key: &SigningKey) -> SignedStatement {
        body.into_statement(Some(self.id), &[], 1_000).sign(key)
    }

    pub(crate) fn operator(&mut self, key: &SigningKey, roles: &[Role]) {
        let operator = Operator { key: public(key), name: "someone".to_owned(), roles: roles.to_vec() };
        let signed = self.say(Body::Operator(operator), &secret(1));
        self.take(&signed);
    }

    pub(crate) fn invitation(&self, one_time: &SigningKey) -> SignedStatement {
        let invitation = Invitation {
            key: public(one_time),
            name: "robot-7".to_owned(),
            zone: "yard".to_owned(),
            labels: [("rack".to_owned(), "b".to_owned())].into(),
            not_after_ms: 2_000,
        };
        self.say(Body::Invitation(invitation), &secret(2))
    }

    pub(crate) fn admission(&self, one_time: &SigningKey, device: &SigningKey) -> SignedStatement {
        let admission = Admission {
            invitation: public(one_time),
            device: public(device),
            sealing: [9; 32],
            fingerprint: [[1; 32], [2; 32], [3; 32]],
        };
        let mut signed = self.say(Body::Admission(admission), one_time);
        signed.add_signature(device);
        signed
    }

    /// Admits the device of `key`, certified by `secret(2)`.
    pub(crate) fn device(&mut self, key: &SigningKey) -> DeviceId {
        let seed = *blake3::hash(&public(key).0).as_bytes();
        let one_time = SigningKey::from_bytes(&seed);
        let invitation = self.invitation(&one_time);
        self.take(&invitation);
        let admission = self.admission(&one_time, key);
        self.take(&admission);
        public(key).device()
    }
}

pub(crate) fn config() -> DocumentName {
    DocumentName::config("camera").expect("a plain name")
}

/// The log of an operator in a configuration.
pub(crate) fn operators_log(author: &SigningKey) -> LogName {
    LogName { document: config(), epoch: 1, author: public(author), carrier: DeviceId([7; 32]), incarnation: 1 }
}

/// The log of a device in its own document.
pub(crate) fn devices_log(author: &SigningKey, epoch: u64) -> LogName {
    let device = public(author).device();
    let document = DocumentName::of_device(Kind::Device, &device);
    LogName { document, epoch, author: public(author), carrier: device, incarnation: 1 }
}

/// Signs changes of a log that follow the chain `before`.
pub(crate) fn run_of(
    key: &SigningKey,
    fleet: &FleetId,
    log: &LogName,
    first_seq: u64,
    before: ChainHash,
    changes: Vec<Vec<u8>>,
) -> Run {
    let no_hash = ChangeHash([0; 32]);
    let chain = changes.iter().fold(before, |chain, raw| chain.next(&hash_of(raw).unwrap_or(no_hash)));
    let last = (first_seq + changes.len() as u64).saturating_sub(1);
    let signature = sign(key, fleet, &log.actor(fleet), last, &chain);
    Run { log: log.clone(), first_seq, changes: changes.into_iter().map(RawBytes).collect(), signature }
}

/// An author with its replica of one document, which Automerge keeps.
pub(crate) struct Writer {
    pub(crate) key: SigningKey,
    pub(crate) fleet: FleetId,
    pub(crate) log: LogName,
    pub(crate) actor: Actor,
    pub(crate) chain: ChainHash,
    pub(crate) seq: u64,
    pub(crate) doc: AutoCommit,
}

impl Writer {
    pub(crate) fn new(fleet: &FleetId, key: SigningKey, log: LogName) -> Writer {
        let actor = log.actor(fleet);
        let doc = AutoCommit::new().with_actor(ActorId::from(actor.0));
        Writer { key, fleet: *fleet, log, actor, chain: ChainHash::START, seq: 0, doc }
    }

    pub(crate) fn operator(fleet: &FleetId, key: SigningKey) -> Writer {
        let log = operators_log(&key);
        Writer::new(fleet, key, log)
    }

    pub(crate) fn device(fleet: &FleetId, key: SigningKey) -> Writer {
        let log = devices_log(&key, 1);
        Writer::new(fleet, key, log)
    }

    pub(crate) fn put(&mut self, path: &str, value: impl Into<ScalarValue>) -> &mut Writer {
        self.doc.put(ROOT, path, value.into()).expect("a put on the root map");
        self
    }

    /// Takes over what `other` has.
    pub(crate) fn merge(&mut self, other: &mut Writer) {
        let heads = self.doc.get_heads();
        let changes = other.doc.get_changes(&heads);
        self.doc.apply_changes(changes).expect("honest changes apply");
    }

    /// Commits what was put and signs it; nothing where nothing was put.
    pub(crate) fn commit(&mut self, time_s: i64) -> Option<Run> {
        self.doc.commit_with(CommitOptions::default().with_time(time_s))?;
        let raw = self.doc.get_last_local_change().expect("it was just committed").raw_bytes().to_vec();
        let run = run_of(&self.key, &self.fleet, &self.log, self.seq + 1, self.chain, vec![raw]);
        self.seq += 1;
        self.chain = self.chain.next(&hash_of(&run.changes[0].0).expect("a plain change"));
        Some(run)
    }

    /// Puts one value and signs the change.
    pub(crate) fn set(&mut self, path: &str, value: impl Into<ScalarValue>) -> Run {
        self.put(path, value).commit(1_000).expect("the value is another one")
    }
}

/// A store behind the gate.
#[derive(Clone, Default)]
pub(crate) struct Holder {
    pub(crate) store: MemoryStore,
    pub(crate) logs: BTreeMap<DocumentName, Vec<Actor>>,
}

impl Holder {
    pub(crate) fn siblings(&self, document: &DocumentName) -> &[Actor] {
        self.logs.get(document).map_or(&[], Vec::as_slice)
    }

    /// Judges a run and says what would be written, without writing it.
    pub(crate) fn judge(&self, fleet: &Fleet, run: &Run) -> (Outcome, Batch) {
        let gate = Gate { fleet: &fleet.id, roster: &fleet.roster };
        let mut staged = Staged::new(&self.store);
        let outcome = gate.admit(&mut staged, self.siblings(&run.log.document), run).expect("the store is whole");
        let batch = staged.into_batch();
        let is_admitted = matches!(outcome, Outcome::Admitted(_));
        assert!(is_admitted != batch.is_empty(), "only what is admitted is staged: {outcome:?}");
        (outcome, batch)
    }

    pub(crate) fn admit(&mut self, fleet: &Fleet, run: &Run) -> Outcome {
        let (outcome, batch) = self.judge(fleet, run);
        self.store.apply(&batch);
        if let Outcome::Admitted(admitted) = &outcome {
            let logs = self.logs.entry(run.log.document.clone()).or_default();
            logs.retain(|log| !admitted.superseded.contains(log) && *log != admitted.actor);
            logs.push(admitted.actor);
        }
        outcome
    }

    pub(crate) fn must_admit(&mut self, fleet: &Fleet, run: &Run) {
        let outcome = self.admit(fleet, run);
        assert!(matches!(outcome, Outcome::Admitted(_)), "{outcome:?}");
    }

    pub(crate) fn heads(&self, document: &DocumentName) -> Vec<ChangeHash> {
        view::heads(&self.store, self.siblings(document)).expect("the store is whole")
    }
}

/// Path → operations with their values, ascending: the last one is read.
pub(crate) type Values = BTreeMap<String, Vec<(OpId, Value)>>;

/// What Automerge sees.
pub(crate) fn automerge_values(doc: &impl ReadDoc) -> Values {
    let mut values = Values::new();
    for path in doc.keys(ROOT) {
        let mut all: Vec<(OpId, Value)> = Vec::new();
        for (value, id) in doc.get_all(ROOT, path.as_str()).expect("a key of the map") {
            let ObjId::Id(counter, actor, _) = id else { panic!("the value of a key has an id") };
            let actor = Actor(actor.to_bytes().try_into().expect("actors have 16 bytes"));
            all.push((OpId { counter, actor }, value_of(scalar_in(&value))));
        }
        let winner = doc.get(ROOT, path.as_str()).expect("a key of the map").expect("it has a value");
        all.sort_by_key(|(id, _)| *id);
        let read = value_of(scalar_in(&winner.0));
        assert_eq!(all.last().map(|(_, value)| value), Some(&read), "the greatest operation is read");
        values.insert(path, all);
    }
    values
}

/// What the index sees, by way of the view.
pub(crate) fn index_values(holder: &Holder, document: &DocumentName) -> Values {
    let mut values = Values::new();
    for (path, entry) in view::read(&holder.store, document, "").expect("the store is whole") {
        let leaves = read_key(&holder.store, document, &path).expect("the store is whole").leaves;
        let all: Vec<_> = leaves.into_iter().filter_map(|leaf| Some((leaf.id, leaf.value?))).collect();
        let shown: Vec<&Value> = [&entry.read].into_iter().chain(&entry.others).map(|shown| &shown.value).collect();
        assert!(shown.iter().copied().eq(all.iter().rev().map(|(_, value)| value)), "the view shows the index");
        values.insert(path, all);
    }
    values
}

pub(crate) fn scalar_in<'a>(value: &'a automerge::Value<'_>) -> &'a ScalarValue {
    match value {
        automerge::Value::Scalar(scalar) => scalar,
        other => panic!("{other:?} is no scalar"),
    }
}

fn value_of(scalar: &ScalarValue) -> Value {
    match scalar {
        ScalarValue::Null => Value::Null,
        ScalarValue::Boolean(flag) => Value::Bool(*flag),
        ScalarValue::Int(number) => Value::Int(*number),
        ScalarValue::Uint(number) => Value::Uint(*number),
        ScalarValue::F64(number) => Value::Float(*number),
        ScalarValue::Str(text) => Value::Text(text.to_string()),
        ScalarValue::Bytes(bytes) => Value::Bytes(bytes.clone()),
        ScalarValue::Timestamp(millis) => Value::Timestamp(*millis),
        other => panic!("{other:?} is no value of this fleet"),
    }
}

/// A chunk of the Automerge format with its checksum: magic, checksum, type, length, body.
pub(crate) fn chunk(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, kind];
    let mut length = body.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(body);
    mend(&mut bytes);
    bytes
}

/// Sets the checksum of a chunk right.
pub(crate) fn mend(bytes: &mut [u8]) {
    use sha2::Digest;
    if let Some((head, hashed)) = bytes.split_at_mut_checked(8) {
        head[4..].copy_from_slice(&sha2::Sha256::digest(hashed)[..4]);
    }
}

/// So many cases of a property, times what `FLEETSYNC_CASES_TIMES` says (`scripts/soak`).
pub(crate) fn cases(count: u32) -> proptest::test_runner::Config {
    let times = std::env::var("FLEETSYNC_CASES_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    proptest::test_runner::Config::with_cases(count * times)
}
