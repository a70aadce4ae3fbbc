//! Becoming a member: the statements of a new fleet, and the two exchanges of a join.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crdt::id::{FleetId, Key};
use crdt::join::{JoinAnswer, JoinRefusal, JoinRequest, decode, encode};
use crdt::roster::{Judgement, Roster};
use crdt::statement::{Admission, Body, Invitation, Operator, Pin, ROLES, RootKeys, SignedStatement, StatementParts};
use crdt::sync::{Config, Effect, Engine, Input, Reply, RequestId};
use crdt::ticket::{Address, Ticket};
use ed25519_dalek::SigningKey;
use transport::{Listen, PeerKey};

use crate::clock::Clock;
use crate::folder::{Folder, FolderError, NodeFile, Seed, random};
use crate::store::{OpenError, Store, WriteError};

/// How long a join tries, over all addresses.
const JOIN_TRIES: u32 = 3;
/// How long a joiner without a ticket waits before it asks again: a member answers four requests a minute.
const ASK_PAUSE: Duration = Duration::from_secs(16);

/// Why a folder did not become a member's. It can be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EnrolError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the store cannot be opened: {0}")]
    Store(#[from] OpenError),
    #[error("the store cannot be written: {0}")]
    Write(#[from] WriteError),
    #[error("the ticket names no address")]
    NoAddress,
    #[error("no member that the ticket names could be reached: {0}")]
    Unreachable(String),
    #[error("the member answers nothing now: it takes four requests a minute from a device")]
    Limited,
    #[error("{0}")]
    Refused(JoinRefusal),
    #[error("the member's statements do not lead to the fleet of the ticket: {0}")]
    Chain(String),
    #[error("the mesh did not start: {0}")]
    Mesh(#[from] transport::StartError),
}

/// The public part of a signing key.
pub(crate) fn public(key: &SigningKey) -> Key {
    Key(key.verifying_key().to_bytes())
}

/// What the first device of a new fleet is to be called.
pub(crate) struct FirstDevice {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) labels: BTreeMap<String, String>,
}

/// The first root statement of a fleet; its id is the fleet's.
pub(crate) fn genesis(clock: &dyn Clock, root: &SigningKey) -> SignedStatement {
    let keys = RootKeys { keys: vec![public(root)], threshold: 1 };
    Body::Root(keys).into_statement(None, &[], clock.wall_ms()).sign(root)
}

/// Makes a locked folder the first member of a new fleet.
pub(crate) fn found(
    folder: &Folder,
    clock: &dyn Clock,
    genesis: SignedStatement,
    root: &SigningKey,
    operator: &SigningKey,
    device: FirstDevice,
) -> Result<FleetId, EnrolError> {
    let fleet = FleetId(genesis.id().0);
    let now = clock.wall_ms();
    let roles = ROLES.iter().map(|(role, _)| *role).collect();
    let first = Operator { key: public(operator), name: "operator".to_owned(), roles };
    let one_time = SigningKey::from_bytes(&random());
    let invitation = Invitation {
        key: public(&one_time),
        name: device.name,
        zone: device.zone,
        labels: device.labels,
        not_after_ms: now,
    };
    let admission = admission(folder, clock, fleet, &one_time)?;
    let pin = Pin { invitation: public(&one_time), admission: admission.id() };
    let statements = [
        genesis,
        Body::Operator(first).into_statement(Some(fleet), &[], now).sign(root),
        Body::Invitation(invitation).into_statement(Some(fleet), &[], now).sign(operator),
        admission,
        Body::Pin(pin).into_statement(Some(fleet), &[], now).sign(operator),
    ];
    settle(folder, fleet, statements.iter().map(SignedStatement::parts).collect())?;
    Ok(fleet)
}

/// The admission of this folder's device, signed with the one-time key and with the device's own.
fn admission(
    folder: &Folder,
    clock: &dyn Clock,
    fleet: FleetId,
    one_time: &SigningKey,
) -> Result<SignedStatement, EnrolError> {
    let device = folder.device_key()?;
    let sealing = x25519_dalek::PublicKey::from(&folder.sealing_key()?);
    let admission = Admission {
        invitation: public(one_time),
        device: public(&device),
        sealing: sealing.to_bytes(),
        fingerprint: collectors::Collector::live(fleet).fingerprint(),
    };
    let mut signed = Body::Admission(admission).into_statement(Some(fleet), &[], clock.wall_ms()).sign(one_time);
    signed.add_signature(&device);
    Ok(signed)
}

/// Stores the statements and makes the folder a member's.
fn settle(folder: &Folder, fleet: FleetId, statements: Vec<StatementParts>) -> Result<(), EnrolError> {
    let store = Store::open(&folder.store())?;
    let config = Config { fleet, key: folder.device_key()?, incarnation: 0, seed: u64::from_be_bytes(random()) };
    let mut engine = Engine::open(config, &store).map_err(|error| EnrolError::Chain(error.to_string()))?;
    let request = RequestId(1);
    engine.handle(Default::default(), Input::Statements { request, statements }, &store);
    while let Some(effect) = engine.poll_effect() {
        match effect {
            Effect::Persist { batch, token, .. } => {
                store.apply(&batch)?;
                engine.handle(Default::default(), Input::Persisted(token), &store);
            }
            Effect::Reply { reply: Reply::Refused(reason), .. } => return Err(EnrolError::Chain(reason)),
            _ => {}
        }
    }
    store.sync()?;
    let incarnation = crdt::id::hex(&random::<8>());
    Ok(folder.write_node(&NodeFile { fleet: fleet.to_string(), incarnation, port: None, bulk_port: None })?)
}

/// Joins the fleet of a ticket over the members that it names. Returns the device's name.
pub(crate) async fn join(folder: &Folder, clock: &dyn Clock, ticket: &Ticket) -> Result<String, EnrolError> {
    let key = folder.device_key()?;
    let invitation = ticket.invitation().map_err(|error| EnrolError::Chain(error.to_string()))?;
    let (mesh, _events) = dial_only(&key)?;
    let mut by_peer: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    for address in &ticket.addresses {
        by_peer.entry(address.peer).or_default().push(address.address.clone());
    }
    let entry = Entry { fleet: ticket.fleet, one_time: SigningKey::from_bytes(&ticket.secret), invitation };
    let mut result = Err(EnrolError::NoAddress);
    'tries: for attempt in 0..JOIN_TRIES {
        for (peer, addresses) in &by_peer {
            let member = Member { mesh: &mesh, peer: PeerKey(peer.0), addresses };
            result = entry.exchange(&member, folder, clock).await;
            match &result {
                Err(EnrolError::Unreachable(_) | EnrolError::Limited) => {}
                _ => break 'tries,
            }
        }
        tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
    }
    mesh.shutdown().await;
    entry.become_member(folder, &ticket.addresses, result?)
}

/// Asks a member to be let in without a ticket, and again until an operator has approved. Returns the device's name.
pub(crate) async fn ask_to_join(
    folder: &Folder,
    clock: &dyn Clock,
    fleet: FleetId,
    member: &Address,
    name: &str,
) -> Result<String, EnrolError> {
    let (mesh, _events) = dial_only(&folder.device_key()?)?;
    let one_time = SigningKey::from_bytes(&random());
    let addresses = [member.address.clone()];
    let at = Member { mesh: &mesh, peer: PeerKey(member.peer.0), addresses: &addresses };
    let request = JoinRequest::Ask { fleet, one_time: public(&one_time), name: name.to_owned() };
    let statements = loop {
        match at.ask(&request).await {
            Ok(JoinAnswer::Invited(statements)) => break statements,
            Ok(JoinAnswer::Waits) => tokio::time::sleep(ASK_PAUSE).await,
            Ok(JoinAnswer::Refused(refusal)) => return Err(EnrolError::Refused(refusal)),
            Ok(_) => return Err(EnrolError::Chain("it answers out of turn".to_owned())),
            Err(error) => return Err(error),
        }
    };
    check_chain(fleet, &statements)?;
    let invitation = statements.last().cloned().ok_or_else(|| EnrolError::Chain("it sends nothing".to_owned()))?;
    let invitation = SignedStatement::from_parts(invitation).map_err(|error| EnrolError::Chain(error.to_string()))?;
    let entry = Entry { fleet, one_time, invitation };
    let statements = entry.exchange(&at, folder, clock).await;
    mesh.shutdown().await;
    entry.become_member(folder, std::slice::from_ref(member), statements?)
}

/// A mesh that only dials. It ends when its events are dropped, so they are held beside it.
type DialOnly = (transport::Handle, tokio::sync::mpsc::Receiver<transport::Event>);

fn dial_only(key: &SigningKey) -> Result<DialOnly, EnrolError> {
    let config = transport::Config::new(key.to_bytes(), Listen { ips: Vec::new(), port: 0 });
    Ok(transport::spawn(config, Arc::new(|_: &PeerKey| false))?)
}

/// What lets a device in: an invitation and the secret of its one-time key.
struct Entry {
    fleet: FleetId,
    one_time: SigningKey,
    invitation: SignedStatement,
}

impl Entry {
    /// The two exchanges; the statements that make the device a member.
    async fn exchange(
        &self,
        member: &Member<'_>,
        folder: &Folder,
        clock: &dyn Clock,
    ) -> Result<Vec<StatementParts>, EnrolError> {
        let request = JoinRequest::Chain { fleet: self.fleet, invitation: public(&self.one_time) };
        let mut statements = match member.ask(&request).await? {
            JoinAnswer::Chain(chain) => chain,
            JoinAnswer::Refused(refusal) => return Err(EnrolError::Refused(refusal)),
            _ => return Err(EnrolError::Chain("it answers out of turn".to_owned())),
        };
        let (invitation, admission) = (&self.invitation, admission(folder, clock, self.fleet, &self.one_time)?);
        statements.extend([invitation.parts(), admission.parts()]);
        check_chain(self.fleet, &statements)?;
        let request = JoinRequest::Admit { invitation: invitation.parts(), admission: admission.parts() };
        match member.ask(&request).await? {
            JoinAnswer::Welcome => Ok(statements),
            JoinAnswer::Refused(refusal) => Err(EnrolError::Refused(refusal)),
            _ => Err(EnrolError::Chain("it answers out of turn".to_owned())),
        }
    }

    fn become_member(
        &self,
        folder: &Folder,
        addresses: &[Address],
        statements: Vec<StatementParts>,
    ) -> Result<String, EnrolError> {
        let Ok(Body::Invitation(invited)) = Body::of(self.invitation.statement()) else {
            return Err(EnrolError::Chain("there is no invitation".to_owned()));
        };
        folder.write_seeds(&addresses.iter().map(Seed::from).collect::<Vec<_>>())?;
        settle(folder, self.fleet, statements)?;
        Ok(invited.name)
    }
}

/// A member that takes joins, as seen by a joiner.
struct Member<'a> {
    mesh: &'a transport::Handle,
    peer: PeerKey,
    addresses: &'a [String],
}

impl Member<'_> {
    async fn ask(&self, request: &JoinRequest) -> Result<JoinAnswer, EnrolError> {
        let answer =
            self.mesh.join(self.peer, self.addresses.to_vec(), encode(request)).await.map_err(|error| match error {
                transport::JoinError::Refused => EnrolError::Limited,
                error => EnrolError::Unreachable(error.to_string()),
            })?;
        decode(&answer).ok_or_else(|| EnrolError::Unreachable("the member refused to answer".to_owned()))
    }
}

/// Every statement must follow from the fleet id of the ticket.
fn check_chain(fleet: FleetId, statements: &[StatementParts]) -> Result<(), EnrolError> {
    let mut roster = Roster::new(fleet);
    for parts in statements {
        let signed =
            SignedStatement::from_parts(parts.clone()).map_err(|error| EnrolError::Chain(error.to_string()))?;
        match roster.judge(&signed) {
            Judgement::Store(signed) => {
                roster.insert(*signed);
            }
            Judgement::Known => {}
            _ => {
                let kind = &signed.statement().kind;
                return Err(EnrolError::Chain(format!("its {kind} statement is not certified")));
            }
        }
    }
    Ok(())
}
