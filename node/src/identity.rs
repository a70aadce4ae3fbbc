//! Becoming a member: the statements of a new fleet, and the two exchanges of a join.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crdt::id::{FleetId, Key};
use crdt::join::{JoinAnswer, JoinRefusal, JoinRequest, decode, encode};
use crdt::roster::{Judgement, Roster};
use crdt::statement::{Admission, Body, Invitation, Operator, ROLES, RootKeys, SignedStatement, StatementParts};
use crdt::sync::{Config, Effect, Engine, Input, Reply, RequestId};
use crdt::ticket::Ticket;
use ed25519_dalek::SigningKey;
use transport::{Listen, PeerKey};

use crate::clock::wall_ms;
use crate::folder::{Folder, FolderError, NodeFile, random};
use crate::store::{OpenError, Store, WriteError};

/// How long a join tries, over all addresses.
const JOIN_TRIES: u32 = 3;

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
pub(crate) fn genesis(root: &SigningKey) -> SignedStatement {
    let keys = RootKeys { keys: vec![public(root)], threshold: 1 };
    Body::Root(keys).into_statement(None, &[], wall_ms()).sign(root)
}

/// Makes a locked folder the first member of a new fleet.
pub(crate) fn found(
    folder: &Folder,
    genesis: SignedStatement,
    root: &SigningKey,
    operator: &SigningKey,
    device: FirstDevice,
) -> Result<FleetId, EnrolError> {
    let fleet = FleetId(genesis.id().0);
    let now = wall_ms();
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
    let statements = vec![
        genesis,
        Body::Operator(first).into_statement(Some(fleet), &[], now).sign(root),
        Body::Invitation(invitation).into_statement(Some(fleet), &[], now).sign(operator),
        admission(folder, fleet, &one_time)?,
    ];
    settle(folder, fleet, statements.iter().map(SignedStatement::parts).collect())?;
    Ok(fleet)
}

/// The admission of this folder's device, signed with the one-time key and with the device's own.
fn admission(folder: &Folder, fleet: FleetId, one_time: &SigningKey) -> Result<SignedStatement, EnrolError> {
    let device = folder.device_key()?;
    let sealing = x25519_dalek::PublicKey::from(&folder.sealing_key()?);
    let admission = Admission {
        invitation: public(one_time),
        device: public(&device),
        sealing: sealing.to_bytes(),
        fingerprint: collectors::Collector::live(fleet).fingerprint(),
    };
    let mut signed = Body::Admission(admission).into_statement(Some(fleet), &[], wall_ms()).sign(one_time);
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
    Ok(folder.write_node(&NodeFile { fleet: fleet.to_string(), incarnation, port: None })?)
}

/// Joins the fleet of a ticket over the members that it names. Returns the device's name.
pub(crate) async fn join(folder: &Folder, ticket: &Ticket) -> Result<String, EnrolError> {
    let key = folder.device_key()?;
    let invitation = ticket.invitation().map_err(|error| EnrolError::Chain(error.to_string()))?;
    let Ok(Body::Invitation(invited)) = Body::of(invitation.statement()) else {
        return Err(EnrolError::Chain("the ticket holds no invitation".to_owned()));
    };
    let one_time = SigningKey::from_bytes(&ticket.secret);
    let config = transport::Config::new(key.to_bytes(), Listen { ips: Vec::new(), port: 0 });
    let (mesh, _events) = transport::spawn(config, Arc::new(|_: &PeerKey| false))?;
    let mut by_peer: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    for address in &ticket.addresses {
        by_peer.entry(address.peer).or_default().push(address.address.clone());
    }
    let mut result = Err(EnrolError::NoAddress);
    'tries: for attempt in 0..JOIN_TRIES {
        for (peer, addresses) in &by_peer {
            let peer = PeerKey(peer.0);
            result = exchange(&mesh, peer, addresses, ticket, &invitation, &one_time, folder).await;
            match &result {
                Err(EnrolError::Unreachable(_)) => {}
                _ => break 'tries,
            }
        }
        tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
    }
    mesh.shutdown().await;
    let statements = result?;
    folder.write_seeds(&ticket.addresses)?;
    settle(folder, ticket.fleet, statements)?;
    Ok(invited.name)
}

async fn exchange(
    mesh: &transport::Handle,
    peer: PeerKey,
    addresses: &[String],
    ticket: &Ticket,
    invitation: &SignedStatement,
    one_time: &SigningKey,
    folder: &Folder,
) -> Result<Vec<StatementParts>, EnrolError> {
    let fleet = ticket.fleet;
    let request = JoinRequest::Chain { fleet, invitation: public(one_time) };
    let chain = match ask(mesh, peer, addresses, &request).await? {
        JoinAnswer::Chain(chain) => chain,
        JoinAnswer::Refused(refusal) => return Err(EnrolError::Refused(refusal)),
        JoinAnswer::Welcome => return Err(EnrolError::Chain("it answers out of turn".to_owned())),
    };
    let admission = admission(folder, fleet, one_time)?;
    let mut statements = chain;
    statements.extend([invitation.parts(), admission.parts()]);
    check_chain(fleet, &statements)?;
    let request = JoinRequest::Admit { invitation: invitation.parts(), admission: admission.parts() };
    match ask(mesh, peer, addresses, &request).await? {
        JoinAnswer::Welcome => Ok(statements),
        JoinAnswer::Refused(refusal) => Err(EnrolError::Refused(refusal)),
        JoinAnswer::Chain(_) => Err(EnrolError::Chain("it answers out of turn".to_owned())),
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

async fn ask(
    mesh: &transport::Handle,
    peer: PeerKey,
    addresses: &[String],
    request: &JoinRequest,
) -> Result<JoinAnswer, EnrolError> {
    let answer = mesh
        .join(peer, addresses.to_vec(), encode(request))
        .await
        .map_err(|error| EnrolError::Unreachable(error.to_string()))?;
    decode(&answer).ok_or_else(|| EnrolError::Unreachable("the member refused to answer".to_owned()))
}
