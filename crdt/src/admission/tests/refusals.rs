//! Each reason and each wait at least once; what is refused leaves no write behind (`Holder::judge` asserts it).

use automerge::{ActorId, Author, ExpandedChange, ScalarValue};

use super::*;
use crate::fixture::{Fleet, Holder, Writer, devices_log, operators_log, run_of, secret};
use crate::id::DeviceId;
use crate::raw::{GuardError, NewChange, Operation, encode};
use crate::schema::{DocumentName, Value};
use crate::statement::{Body, Removal, SignatureBytes};

const OPERATOR: u8 = 2;
const DEVICE: u8 = 20;

/// A fleet with the operators 2 and 3 and the device 20.
fn fleet() -> Fleet {
    let mut fleet = Fleet::with_operator();
    fleet.operator(&secret(3), &[Role::Config]);
    fleet.device(&secret(DEVICE));
    fleet
}

fn device_writer(fleet: &Fleet) -> Writer {
    Writer::device(&fleet.id, secret(DEVICE))
}

fn reason(outcome: Outcome) -> Reason {
    match outcome {
        Outcome::Refused { reason, .. } => reason,
        other => panic!("expected a refusal: {other:?}"),
    }
}

fn refused(holder: &Holder, fleet: &Fleet, run: &Run) -> Reason {
    reason(holder.judge(fleet, run).0)
}

/// The first change of a device's log with these operations.
fn first_change(fleet: &Fleet, log: &LogName, operations: Vec<Operation>, message: Option<String>) -> Vec<u8> {
    let actor = log.actor(&fleet.id);
    encode(&NewChange { actor, seq: 1, start_op: 1, time_s: 0, message, deps: vec![], operations }).unwrap()
}

fn put(path: &str, value: Value) -> Operation {
    Operation { path: path.to_owned(), action: raw::Action::Put(value), pred: vec![] }
}

/// The change of `run` with its fields altered, signed again by its author.
fn altered(writer: &Writer, run: &Run, before: ChainHash, alter: impl FnOnce(&mut ExpandedChange)) -> Run {
    let mut change = automerge::Change::from_bytes(run.changes[0].0.clone()).unwrap().decode();
    alter(&mut change);
    let raw = automerge::Change::from(change).raw_bytes().to_vec();
    run_of(&writer.key, &writer.fleet, &run.log, run.first_seq, before, vec![raw])
}

#[test]
fn runs_of_a_wrong_shape() {
    let (fleet, holder) = (fleet(), Holder::default());
    let mut writer = device_writer(&fleet);
    let runs: Vec<Run> = (0..33).map(|n| writer.set("a", n)).collect();
    let of = |count: usize, first_seq: u64| {
        let changes = runs[..count].iter().map(|run| run.changes[0].0.clone()).collect();
        run_of(&secret(DEVICE), &fleet.id, &writer.log, first_seq, ChainHash::START, changes)
    };
    assert!(matches!(holder.judge(&fleet, &of(32, 1)).0, Outcome::Admitted(_)));
    assert_eq!(refused(&holder, &fleet, &of(33, 1)), Reason::Run);
    assert_eq!(refused(&holder, &fleet, &of(0, 1)), Reason::Run);
    let zero = Run { first_seq: 0, ..of(1, 1) };
    assert_eq!(refused(&holder, &fleet, &zero), Reason::Run);
    let at_the_end = Run { first_seq: u64::MAX - 3, ..of(1, 1) };
    assert_eq!(refused(&holder, &fleet, &at_the_end), Reason::Run);

    let of_bytes = |changes: usize| {
        let changes = vec![vec![0; RUN_BYTES_MAX / 2 + 1]; changes];
        run_of(&secret(DEVICE), &fleet.id, &writer.log, 1, ChainHash::START, changes)
    };
    assert_ne!(refused(&holder, &fleet, &of_bytes(2)), Reason::Run, "one change aside");
    assert_eq!(refused(&holder, &fleet, &of_bytes(3)), Reason::Run);

    let mut operator = Writer::operator(&fleet.id, secret(OPERATOR));
    let changes = vec![operator.set("a", 1).changes[0].0.clone(), operator.set("a", 2).changes[0].0.clone()];
    let two = run_of(&secret(OPERATOR), &fleet.id, &operator.log, 1, ChainHash::START, changes);
    assert_eq!(refused(&holder, &fleet, &two), Reason::Run);
}

#[test]
fn sizes_and_bytes() {
    let (fleet, holder) = (fleet(), Holder::default());
    let log = devices_log(&secret(DEVICE), 1);
    let with = |raw: Vec<u8>| run_of(&secret(DEVICE), &fleet.id, &log, 1, ChainHash::START, vec![raw]);
    assert_eq!(refused(&holder, &fleet, &with(vec![0; RAW_BYTES_MAX + 1])), Reason::Size(RAW_BYTES_MAX + 1));
    assert_eq!(refused(&holder, &fleet, &with(vec![])), Reason::Raw(RawError::Guard(GuardError::Header)));
    let honest = first_change(&fleet, &log, vec![put("a", Value::Null)], None);
    let mut writer = device_writer(&fleet);
    let run = writer.set("a", 1);
    let extra = altered(&writer, &run, ChainHash::START, |change| change.extra_bytes = vec![1]);
    assert_eq!(refused(&holder, &fleet, &extra), Reason::Raw(RawError::ExtraBytes));
    let mut authored = device_writer(&fleet);
    authored.doc.set_author(Some(Author::from(vec![1, 2, 3])));
    assert_eq!(refused(&holder, &fleet, &authored.set("a", 1)), Reason::Raw(RawError::ExtraBytes));
    let ancient = altered(&writer, &run, ChainHash::START, |change| change.time = i64::MIN);
    assert_eq!(refused(&holder, &fleet, &ancient), Reason::Raw(RawError::Time(i64::MIN)));
    let many = (0..=raw::OPERATIONS_MAX).map(|n| put(&format!("p{n}"), Value::Null)).collect();
    let many = with(first_change(&fleet, &log, many, None));
    assert_eq!(refused(&holder, &fleet, &many), Reason::Raw(RawError::Guard(GuardError::Rows)));
    assert!(matches!(holder.judge(&fleet, &with(honest)).0, Outcome::Admitted(_)));
}

#[test]
fn authors_and_their_documents() {
    let (mut fleet, holder) = (fleet(), Holder::default());
    let signed = |fleet: &Fleet, log: &LogName| {
        let raw = first_change(fleet, log, vec![put("a", Value::Null)], None);
        run_of(&secret(DEVICE), &fleet.id, log, 1, ChainHash::START, vec![raw])
    };
    let own = devices_log(&secret(DEVICE), 1);
    let others = LogName { document: devices_log(&secret(21), 1).document, ..own.clone() };
    assert_eq!(refused(&holder, &fleet, &signed(&fleet, &others)), Reason::Author);
    let carried = LogName { carrier: DeviceId([8; 32]), ..own.clone() };
    assert_eq!(refused(&holder, &fleet, &signed(&fleet, &carried)), Reason::Author);
    assert_eq!(refused(&holder, &fleet, &signed(&fleet, &devices_log(&secret(DEVICE), 0))), Reason::Epoch(0));
    let part: DocumentName = format!("{}/disks", own.document).parse().unwrap();
    let part = LogName { document: part, ..own.clone() };
    assert!(matches!(holder.judge(&fleet, &signed(&fleet, &part)).0, Outcome::Admitted(_)));

    // A device that is unknown, or no operator: more statements may come.
    let unknown = devices_log(&secret(30), 1);
    let raw = first_change(&fleet, &unknown, vec![put("a", Value::Null)], None);
    let run = run_of(&secret(30), &fleet.id, &unknown, 1, ChainHash::START, vec![raw]);
    assert_eq!(holder.judge(&fleet, &run).0, Outcome::Waits(Wait::Authority));
    fleet.operator(&secret(4), &[Role::Enrol, Role::Assign]);
    let mut writer = Writer::operator(&fleet.id, secret(4));
    assert_eq!(holder.judge(&fleet, &writer.set("a", 1)).0, Outcome::Waits(Wait::Authority));
    let epoch_2 = LogName { epoch: 2, ..operators_log(&secret(OPERATOR)) };
    let mut writer = Writer::new(&fleet.id, secret(OPERATOR), epoch_2);
    assert_eq!(refused(&holder, &fleet, &writer.set("a", 1)), Reason::Epoch(2));

    let device = crate::fixture::public(&secret(DEVICE)).device();
    let removal = Body::Removal(Removal { device, reason: "sold".to_owned() });
    let removal = fleet.say(removal, &secret(OPERATOR));
    fleet.take(&removal);
    assert_eq!(refused(&holder, &fleet, &signed(&fleet, &own)), Reason::Removed);
}

#[test]
fn signatures_vouch_for_the_whole_log() {
    let (fleet, mut holder) = (fleet(), Holder::default());
    let mut writer = device_writer(&fleet);
    let (one, two) = (writer.set("a", 1), writer.set("a", 2));
    for bit in [0, 100, 300, 511] {
        let mut wrong = one.clone();
        wrong.signature.0[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(refused(&holder, &fleet, &wrong), Reason::Signature);
    }
    let zero = Run { signature: SignatureBytes([0; 64]), ..one.clone() };
    assert_eq!(refused(&holder, &fleet, &zero), Reason::Signature);
    let by_another = run_of(&secret(21), &fleet.id, &writer.log, 1, ChainHash::START, vec![one.changes[0].0.clone()]);
    assert_eq!(refused(&holder, &fleet, &by_another), Reason::Signature);
    let elsewhere =
        run_of(&secret(DEVICE), &FleetId([1; 32]), &writer.log, 1, ChainHash::START, vec![one.changes[0].0.clone()]);
    assert_eq!(refused(&holder, &fleet, &elsewhere), Reason::Signature);
    // The signature of change 2 where change 1 is another: the chain differs, which an honest peer's branch does too.
    let mut other = device_writer(&fleet);
    holder.must_admit(&fleet, &other.set("a", 9));
    assert_eq!(refused(&holder, &fleet, &two), Reason::Branch);
    assert!(Reason::Signature.blames_the_sender() && !Reason::Branch.blames_the_sender());
}

#[test]
fn forks_come_with_both_changes() {
    let (fleet, mut holder) = (fleet(), Holder::default());
    let (mut one, mut other) = (device_writer(&fleet), device_writer(&fleet));
    let (first, _) = (one.set("a", 1), other.set("a", 1));
    let (second, branch) = (one.set("a", 2), other.set("a", 3));
    holder.must_admit(&fleet, &first);
    holder.must_admit(&fleet, &second);
    let expected = vec![second.changes[0].clone(), branch.changes[0].clone()];
    let outcome = holder.judge(&fleet, &branch).0;
    assert_eq!(outcome, Outcome::Refused { reason: Reason::Fork, seq: 2, evidence: expected.clone() });
    // The same in the middle of a longer run: the signature at its end vouches for the branch.
    let third = other.set("a", 4);
    let changes = [&first, &branch, &third].map(|run| run.changes[0].0.clone()).to_vec();
    let run = run_of(&secret(DEVICE), &fleet.id, &one.log, 1, ChainHash::START, changes.clone());
    let outcome = holder.judge(&fleet, &run).0;
    assert_eq!(outcome, Outcome::Refused { reason: Reason::Fork, seq: 2, evidence: expected });
    // Nobody is accused of a fork that the author did not sign.
    let slander = run_of(&secret(21), &fleet.id, &one.log, 1, ChainHash::START, changes);
    assert_eq!(refused(&holder, &fleet, &slander), Reason::Signature);
}

#[test]
fn changes_of_another_place() {
    let (fleet, holder) = (fleet(), Holder::default());
    let mut writer = device_writer(&fleet);
    let run = writer.set("a", 1);
    let foreign = altered(&writer, &run, ChainHash::START, |change| change.actor_id = ActorId::from([5; 16]));
    assert_eq!(refused(&holder, &fleet, &foreign), Reason::Misplaced);
    let later = altered(&writer, &run, ChainHash::START, |change| change.seq = 2);
    assert_eq!(refused(&holder, &fleet, &later), Reason::Misplaced);
    let short = altered(&writer, &run, ChainHash::START, |change| change.actor_id = ActorId::from(&[5u8; 5][..]));
    assert_eq!(refused(&holder, &fleet, &short), Reason::Raw(RawError::Actor));
}

#[test]
fn messages_only_where_an_epoch_begins() {
    let (fleet, holder) = (fleet(), Holder::default());
    let say = |epoch: u64, message: Option<&str>| {
        let log = devices_log(&secret(DEVICE), epoch);
        let raw = first_change(&fleet, &log, vec![put("a", Value::Null)], message.map(str::to_owned));
        let run = run_of(&secret(DEVICE), &fleet.id, &log, 1, ChainHash::START, vec![raw]);
        holder.judge(&fleet, &run).0
    };
    let seal = Seal { actor: Actor([1; 16]), last_seq: 7, chain: ChainHash([2; 32]), values: [3; 32] }.to_string();
    assert_eq!(reason(say(1, Some("hello"))), Reason::Message);
    assert_eq!(reason(say(1, Some(&seal))), Reason::Message);
    assert_eq!(reason(say(2, None)), Reason::Message);
    assert_eq!(reason(say(2, Some("seal v1 x"))), Reason::Message);
    assert_eq!(reason(say(2, Some(&seal.to_uppercase()))), Reason::Message);
    assert_eq!(reason(say(2, Some(&format!("{seal} ")))), Reason::Message);
    assert!(matches!(say(2, Some(&seal)), Outcome::Admitted(_)));
    let mut writer = Writer::operator(&fleet.id, secret(OPERATOR));
    let run = writer.set("a", 1);
    let said = altered(&writer, &run, ChainHash::START, |change| change.message = Some(seal));
    assert_eq!(refused(&holder, &fleet, &said), Reason::Message);
}

#[test]
fn dependencies_and_counters() {
    let (fleet, mut holder) = (fleet(), Holder::default());
    let mut one = Writer::operator(&fleet.id, secret(OPERATOR));
    let mut two = Writer::operator(&fleet.id, secret(3));
    let first = one.set("a", 1);
    two.merge(&mut one);
    let second = two.set("b", 2);
    one.merge(&mut two);
    let before = one.chain;
    let third = one.set("c", 3);
    let hash = |run: &Run| automerge::ChangeHash(raw::hash_of(&run.changes[0].0).unwrap().0);
    let wait = Outcome::Waits(Wait::Change(ChangeHash(hash(&first).0)));
    assert_eq!(holder.judge(&fleet, &second).0, wait);
    assert_eq!(holder.judge(&fleet, &third).0, Outcome::Waits(Wait::Log(one.actor)));
    holder.must_admit(&fleet, &first);
    holder.must_admit(&fleet, &second);
    let change = |deps: Vec<automerge::ChangeHash>, start_op: u64| {
        altered(&one, &third, before, |change| {
            change.deps = deps;
            change.start_op = start_op.try_into().unwrap();
        })
    };
    let (h1, h2) = (hash(&first), hash(&second));
    // The own predecessor lies in the past of the other dependency and may be named beside it.
    assert!(matches!(holder.judge(&fleet, &change(vec![h2], 3)).0, Outcome::Admitted(_)));
    let mut both = vec![h1, h2];
    both.sort_unstable();
    assert!(matches!(holder.judge(&fleet, &change(both, 3)).0, Outcome::Admitted(_)));
    assert_eq!(refused(&holder, &fleet, &change(vec![], 1)), Reason::Deps, "without its own predecessor");
    for start_op in [1, 2, 4, 100] {
        assert_eq!(refused(&holder, &fleet, &change(vec![h2], start_op)), Reason::StartOp, "{start_op}");
    }
    assert_eq!(refused(&holder, &fleet, &change(vec![h2, h2], 3)), Reason::Raw(RawError::DepsOrder));
    // A redundant ancestor of another log: a third author names both the second change and what it builds on.
    let mut third_author = Fleet::with_operator();
    third_author.operator(&secret(3), &[Role::Config]);
    third_author.operator(&secret(4), &[Role::Config]);
    let mut late = Writer::operator(&fleet.id, secret(4));
    late.merge(&mut two);
    let honest = late.set("d", 4);
    let redundant = altered(&late, &honest, ChainHash::START, |change| {
        change.deps = vec![h1, h2];
        change.deps.sort_unstable();
    });
    assert!(matches!(holder.judge(&third_author, &honest).0, Outcome::Admitted(_)));
    assert_eq!(refused(&holder, &third_author, &redundant), Reason::Deps);
}

#[test]
fn dependencies_of_another_document() {
    let (fleet, mut holder) = (fleet(), Holder::default());
    let mut device = device_writer(&fleet);
    let foreign = device.set("a", 1);
    holder.must_admit(&fleet, &foreign);
    let mut one = Writer::operator(&fleet.id, secret(OPERATOR));
    let run = one.set("a", 1);
    let foreign = automerge::ChangeHash(raw::hash_of(&foreign.changes[0].0).unwrap().0);
    let built = altered(&one, &run, ChainHash::START, |change| {
        change.deps = vec![foreign];
        change.start_op = 2.try_into().unwrap();
    });
    assert_eq!(refused(&holder, &fleet, &built), Reason::Deps);
    // A device's change names its predecessor and nothing else.
    let before = device.chain;
    let second = device.set("a", 2);
    for deps in [vec![], vec![automerge::ChangeHash([7; 32])], vec![foreign, automerge::ChangeHash([0xff; 32])]] {
        let wrong = altered(&device, &second, before, |change| change.deps = deps);
        assert_eq!(refused(&holder, &fleet, &wrong), Reason::Deps);
    }
}

#[test]
fn operations_succeed_exactly_what_was_visible() {
    let (fleet, mut holder) = (fleet(), Holder::default());
    let mut device = device_writer(&fleet);
    holder.must_admit(&fleet, &device.set("a", 1));
    let before = device.chain;
    let put = device.set("a", 2);
    let blind = altered(&device, &put, before, |change| change.operations[0].pred = [].into_iter().collect());
    assert_eq!(refused(&holder, &fleet, &blind), Reason::Operation(IndexError::Put(0)));
    let nothing = altered(&device, &put, before, |change| {
        change.operations[0].pred = [].into_iter().collect();
        change.operations[0].action = automerge::legacy::OpType::Delete;
    });
    assert_eq!(refused(&holder, &fleet, &nothing), Reason::Operation(IndexError::Delete(0)));
    let counter = altered(&device, &put, before, |change| {
        change.operations[0].action = automerge::legacy::OpType::Put(ScalarValue::counter(1));
    });
    assert_eq!(refused(&holder, &fleet, &counter), Reason::Raw(RawError::Operation(0)));
    let twice = altered(&device, &put, before, |change| {
        let operation = change.operations[0].clone();
        change.operations.push(operation);
    });
    assert_eq!(refused(&holder, &fleet, &twice), Reason::Operation(IndexError::Put(1)));
}

#[test]
fn known_waiting_and_overlapping_runs() {
    let (fleet, mut holder) = (fleet(), Holder::default());
    let mut device = device_writer(&fleet);
    let runs: Vec<Run> = (0..6).map(|n| device.set("a", n)).collect();
    let actor = device.actor;
    let of = |from: usize, to: usize| Run {
        log: device.log.clone(),
        first_seq: from as u64,
        changes: runs[from - 1..to].iter().map(|run| run.changes[0].clone()).collect(),
        signature: runs[to - 1].signature,
    };
    assert_eq!(holder.judge(&fleet, &of(2, 3)).0, Outcome::Waits(Wait::Log(actor)));
    holder.must_admit(&fleet, &of(1, 3));
    assert_eq!(holder.judge(&fleet, &of(1, 3)).0, Outcome::Known);
    assert_eq!(holder.judge(&fleet, &of(2, 2)).0, Outcome::Known);
    assert_eq!(holder.judge(&fleet, &of(5, 6)).0, Outcome::Waits(Wait::Log(actor)));
    let Outcome::Admitted(admitted) = holder.admit(&fleet, &of(2, 5)) else { panic!("it follows") };
    assert_eq!((admitted.first_new, admitted.record.seq, admitted.hashes.len()), (4, 5, 2));
    let signed = |seq| {
        let key = change_key(&actor, seq);
        let record: ChangeRecord = read_record(&holder.store, Table::Change, &key).unwrap().unwrap();
        record.signature
    };
    let all: Vec<bool> = (1..=5).map(|seq| signed(seq).is_some()).collect();
    assert_eq!(all, [false, false, true, false, true], "only verified signatures are kept");
}

/// One operator with one node after another restored: logs that know nothing of each other. Were their number limited,
/// the order of arrival would decide which of them count.
#[test]
fn so_many_concurrent_operations_on_one_path() {
    const MANY: u64 = 300;
    let (fleet, mut holder) = (fleet(), Holder::default());
    for incarnation in 0..MANY {
        let log = LogName { incarnation, ..operators_log(&secret(OPERATOR)) };
        holder.must_admit(&fleet, &Writer::new(&fleet.id, secret(OPERATOR), log).set("a", 1));
    }
    let view = crate::view::read(&holder.store, &operators_log(&secret(OPERATOR)).document, "").unwrap();
    assert_eq!(view["a"].others.len() as u64, MANY - 1);
}
