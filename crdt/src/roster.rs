//! What is in force: a pure function of a set of statements (PROTOCOL 1).
//!
//! Authority only grows in this version (roles and memberships end by removal, which is final), so a statement that
//! was stored stays stored, and the set can be read incrementally without looking back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{DeviceId, FleetId, Key, StatementId};
use crate::statement::{
    Admission, Assigned, Body, Invitation, Role, RootKeys, SignatureBytes, SignedStatement, StatementParts,
};
use crate::verifier::Verifier;

/// What becomes of a statement that arrives.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Judgement {
    /// To be stored with just these signatures.
    Store(Box<SignedStatement>),
    /// Nothing new in it.
    Known,
    /// It may become valid: a signer's authority or a statement that it replaces is not here yet.
    Pending(Missing),
    /// It can never become valid; no state was changed.
    Refused(&'static str),
}

/// What a pending statement or change waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Missing {
    /// No signer holds the role that the kind needs.
    Authority,
    /// A replaced statement.
    Replaced(StatementId),
}

/// Where a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A member: what it writes counts.
    Member,
    /// Admitted by an invitation that admitted another device too, while no pin says which: roster only.
    Contested,
    /// Removed: nothing that it wrote counts.
    Removed,
    /// No admission is known.
    Unknown,
}

/// A statement of the set.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The statement and its signatures.
    pub signed: SignedStatement,
    /// Its body.
    pub body: Body,
    /// Whether it has the signatures that its kind needs.
    pub in_force: bool,
}

impl Entry {
    /// When the signer says that it was made: milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        crate::statement::time_ms(self.signed.statement())
    }

    /// One of the signers: the author, for people.
    pub fn author(&self) -> Option<Key> {
        self.signed.signatures().keys().next().copied()
    }
}

/// One assigned attribute of a device, as it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    /// The value that is read.
    pub value: String,
    /// Who signed it.
    pub author: Option<Key>,
    /// 0 for what the invitation says.
    pub version: u64,
    /// When the author says it was signed: milliseconds since 1970.
    pub time_ms: u64,
    /// Values of the same subject that nothing replaced either.
    pub others: Vec<String>,
}

/// An operator as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorState {
    /// The name that the statement in force gives.
    pub name: String,
    /// Every role that any standing version gave.
    pub roles: BTreeSet<Role>,
}

/// The set of statements of a fleet, and what follows from it.
#[derive(Debug, Clone)]
pub struct Roster {
    fleet: FleetId,
    entries: BTreeMap<StatementId, Arc<Entry>>,
    /// (Kind, subject) → the statements in force that none in force replaces, the one that is read first.
    standing: BTreeMap<(String, String), Vec<StatementId>>,
    /// What statements in force replace.
    replaced: BTreeSet<StatementId>,
    roots: Vec<(u64, RootKeys)>,
    operators: BTreeMap<Key, OperatorState>,
    invitations: BTreeMap<Key, Vec<StatementId>>,
    /// One-time key → admissions by it.
    admissions: BTreeMap<Key, Vec<StatementId>>,
    /// Device → its admissions.
    devices: BTreeMap<DeviceId, Vec<StatementId>>,
    removed: BTreeSet<DeviceId>,
    /// Where devices stand: what [`Roster::derive_standing`] says of them, asked for with every change.
    standings: BTreeMap<DeviceId, Standing>,
    /// Operators' and devices' keys, parsed.
    verifiers: BTreeMap<Key, Arc<Verifier>>,
}

impl Roster {
    /// The empty set of a fleet.
    pub fn new(fleet: FleetId) -> Roster {
        Roster {
            fleet,
            entries: BTreeMap::new(),
            standing: BTreeMap::new(),
            replaced: BTreeSet::new(),
            roots: Vec::new(),
            operators: BTreeMap::new(),
            invitations: BTreeMap::new(),
            admissions: BTreeMap::new(),
            devices: BTreeMap::new(),
            removed: BTreeSet::new(),
            standings: BTreeMap::new(),
            verifiers: BTreeMap::new(),
        }
    }

    /// The fleet.
    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// Judges a statement against the set, without changing it.
    pub fn judge(&self, signed: &SignedStatement) -> Judgement {
        let statement = signed.statement();
        let body = match Body::of(statement) {
            Ok(body) => body,
            Err(_) => return Judgement::Refused("the body does not fit its kind"),
        };
        match statement.fleet {
            Some(fleet) if fleet != self.fleet => return Judgement::Refused("of another fleet"),
            None if signed.id().0 != self.fleet.0 => return Judgement::Refused("of another fleet"),
            _ => {}
        }
        if let Some(judgement) = self.check_replaced(signed) {
            return judgement;
        }
        let Some(authorised) = signed.retain(|key| self.may_sign(&body, key)) else {
            return Judgement::Pending(Missing::Authority);
        };
        let merged = match self.entries.get(&signed.id()) {
            None => authorised,
            Some(known) => {
                let mut merged = known.signed.clone();
                if !merged.merge(&authorised) {
                    return Judgement::Known;
                }
                merged
            }
        };
        if !self.is_vouched(&merged, &body) {
            return Judgement::Pending(Missing::Authority);
        }
        Judgement::Store(Box::new(merged))
    }

    /// Why the statement cannot be stored (yet), as far as what it replaces is concerned.
    fn check_replaced(&self, signed: &SignedStatement) -> Option<Judgement> {
        let statement = signed.statement();
        let mut greatest = 0;
        for id in &statement.replaces {
            let Some(entry) = self.entries.get(id) else { return Some(Judgement::Pending(Missing::Replaced(*id))) };
            let replaced = entry.signed.statement();
            if replaced.kind != statement.kind || replaced.subject != statement.subject {
                return Some(Judgement::Refused("it replaces a statement about something else"));
            }
            greatest = greatest.max(replaced.version);
        }
        let is_next = greatest.checked_add(1) == Some(statement.version);
        (!is_next).then_some(Judgement::Refused("its version is not 1 + the greatest that it replaces"))
    }

    /// Whether someone whom the fleet trusts already stands behind a statement that also names keys of its own: a new
    /// root needs a holder of a root in force, an admission the one-time key. Otherwise anyone could fill the set.
    fn is_vouched(&self, signed: &SignedStatement, body: &Body) -> bool {
        let signers = signed.signatures();
        match body {
            Body::Root(_) if signed.statement().fleet.is_some() => {
                self.roots.iter().any(|(_, root)| root.keys.iter().any(|key| signers.contains_key(key)))
            }
            Body::Admission(admission) => signers.contains_key(&admission.invitation),
            _ => true,
        }
    }

    /// Whether a signature by `key` lends authority to such a body, as far as is known here.
    fn may_sign(&self, body: &Body, key: &Key) -> bool {
        let is_root = || self.roots.iter().any(|(_, root)| root.keys.contains(key));
        match body {
            Body::Root(root) => root.keys.contains(key) || is_root(),
            Body::Operator(_) => is_root(),
            Body::Invitation(_) | Body::Pin(_) | Body::Removal(_) => self.has_role(key, Role::Enrol),
            Body::Admission(admission) => {
                self.invitations.contains_key(&admission.invitation)
                    && (*key == admission.invitation || *key == admission.device)
            }
            Body::Assigned(_) => self.has_role(key, Role::Assign),
            Body::Unknown => self.operators.contains_key(key),
        }
    }

    fn is_in_force(&self, signed: &SignedStatement, body: &Body) -> bool {
        let signers = signed.signatures();
        let reaches =
            |root: &RootKeys| root.keys.iter().filter(|key| signers.contains_key(key)).count() >= root.threshold;
        match body {
            Body::Root(root) if signed.statement().fleet.is_none() => reaches(root),
            Body::Root(root) => {
                let before = signed.statement().version - 1;
                reaches(root) && self.roots.iter().any(|(version, old)| *version == before && reaches(old))
            }
            Body::Operator(_) => self.roots.iter().any(|(_, root)| reaches(root)),
            Body::Admission(admission) => {
                signers.contains_key(&admission.invitation) && signers.contains_key(&admission.device)
            }
            _ => true,
        }
    }

    /// The stored statement with these very bytes, if every signature of `parts` is one of its.
    pub fn known(&self, parts: &StatementParts) -> Option<&SignedStatement> {
        let id = StatementId(*blake3::hash(&parts.bytes).as_bytes());
        let signed = &self.entries.get(&id)?.signed;
        let is_known = |(key, signature): &(Key, SignatureBytes)| signed.signatures().get(key) == Some(&signature.0);
        parts.signatures.iter().all(is_known).then_some(signed)
    }

    /// Adds a statement that [`Roster::judge`] said to store. Returns the devices whose standing may have changed.
    pub fn insert(&mut self, signed: SignedStatement) -> Vec<DeviceId> {
        let id = signed.id();
        let Ok(body) = Body::of(signed.statement()) else { return Vec::new() };
        let in_force = self.is_in_force(&signed, &body);
        let version = signed.statement().version;
        let was_in_force = self.entries.get(&id).is_some_and(|entry| entry.in_force);
        self.entries.insert(id, Arc::new(Entry { signed, body: body.clone(), in_force }));
        if !in_force || was_in_force {
            return Vec::new();
        }
        self.stand(id);
        let is_root = matches!(body, Body::Root(_));
        let devices = self.apply(id, version, body);
        if is_root {
            self.reconsider();
        }
        for device in &devices {
            self.standings.insert(*device, self.derive_standing(device));
        }
        devices
    }

    /// A statement came into force: it stands for its subject unless one in force replaces it, and what it replaces
    /// stands no more.
    fn stand(&mut self, id: StatementId) {
        let Some(entry) = self.entries.get(&id) else { return };
        let statement = entry.signed.statement();
        let subject = (statement.kind.clone(), statement.subject.clone());
        self.replaced.extend(statement.replaces.iter().copied());
        let standing = self.standing.entry(subject).or_default();
        standing.retain(|other| !statement.replaces.contains(other));
        if !self.replaced.contains(&id) {
            standing.push(id);
        }
        let order = |id: &StatementId| {
            let version = self.entries.get(id).map(|entry| entry.signed.statement().version);
            (std::cmp::Reverse(version), *id)
        };
        standing.sort_by_key(order);
    }

    /// A root came into force: with it do those roots and operators that came first and only lacked it. So the order
    /// of arrival does not matter.
    fn reconsider(&mut self) {
        let needs_root = |body: &Body| matches!(body, Body::Root(_) | Body::Operator(_));
        while let Some(id) = self.entries.iter().find_map(|(id, entry)| {
            let is_ready = !entry.in_force && needs_root(&entry.body) && self.is_in_force(&entry.signed, &entry.body);
            is_ready.then_some(*id)
        }) {
            let Some(entry) = self.entries.get_mut(&id).map(Arc::make_mut) else { return };
            entry.in_force = true;
            let (version, body) = (entry.signed.statement().version, entry.body.clone());
            self.stand(id);
            self.apply(id, version, body);
        }
    }

    fn apply(&mut self, id: StatementId, version: u64, body: Body) -> Vec<DeviceId> {
        match body {
            // Of two valid successors of one root the first that was stored stays (PROTOCOL 1).
            Body::Root(root) => {
                if !self.roots.iter().any(|(known, _)| *known == version) {
                    self.roots.push((version, root));
                }
                Vec::new()
            }
            Body::Operator(operator) => {
                self.note_key(&operator.key);
                let roles = operator.roles.iter().copied();
                self.operators
                    .entry(operator.key)
                    .or_insert_with(|| OperatorState { name: String::new(), roles: BTreeSet::new() })
                    .roles
                    .extend(roles);
                let name = match self.read("operator", &operator.key.to_string()).map(|entry| &entry.body) {
                    Some(Body::Operator(read)) => read.name.clone(),
                    _ => operator.name,
                };
                if let Some(state) = self.operators.get_mut(&operator.key) {
                    state.name = name;
                }
                Vec::new()
            }
            Body::Invitation(invitation) => {
                self.invitations.entry(invitation.key).or_default().push(id);
                Vec::new()
            }
            Body::Admission(admission) => {
                self.note_key(&admission.device);
                self.admissions.entry(admission.invitation).or_default().push(id);
                self.devices.entry(admission.device.device()).or_default().push(id);
                self.admitted_by(&admission.invitation)
            }
            Body::Pin(pin) => self.admitted_by(&pin.invitation),
            Body::Removal(removal) => {
                self.removed.insert(removal.device);
                vec![removal.device]
            }
            Body::Assigned(_) | Body::Unknown => Vec::new(),
        }
    }

    fn note_key(&mut self, key: &Key) {
        if let Some(verifier) = Verifier::new(key) {
            self.verifiers.entry(*key).or_insert_with(|| Arc::new(verifier));
        }
    }

    /// The parsed key of an operator or a device that is or was in force.
    pub fn verifier(&self, key: &Key) -> Option<&Verifier> {
        self.verifiers.get(key).map(Arc::as_ref)
    }

    fn admitted_by(&self, invitation: &Key) -> Vec<DeviceId> {
        self.admissions
            .get(invitation)
            .into_iter()
            .flatten()
            .filter_map(|id| self.admission(id))
            .map(|admission| admission.device.device())
            .collect()
    }

    fn admission(&self, id: &StatementId) -> Option<&Admission> {
        match self.entries.get(id).map(|entry| &entry.body) {
            Some(Body::Admission(admission)) => Some(admission),
            _ => None,
        }
    }

    /// The statement of a subject that is read: in force, replaced by none in force, of the highest version, then of
    /// the lower id.
    pub fn read(&self, kind: &str, subject: &str) -> Option<&Entry> {
        self.unreplaced(kind, subject).into_iter().next()
    }

    /// All statements in force of a subject that none replaces; the one that is read first.
    pub fn unreplaced(&self, kind: &str, subject: &str) -> Vec<&Entry> {
        let key = (kind.to_owned(), subject.to_owned());
        self.standing.get(&key).into_iter().flatten().filter_map(|id| self.entries.get(id)).map(Arc::as_ref).collect()
    }

    /// Whether an operator holds a role.
    pub fn has_role(&self, key: &Key, role: Role) -> bool {
        self.operators.get(key).is_some_and(|operator| operator.roles.contains(&role))
    }

    /// Operators by key.
    pub fn operators(&self) -> &BTreeMap<Key, OperatorState> {
        &self.operators
    }

    /// Devices that were ever admitted, removed ones included.
    pub fn devices(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.devices.keys().copied()
    }

    /// Where a device stands.
    pub fn standing(&self, device: &DeviceId) -> Standing {
        self.standings.get(device).copied().unwrap_or(Standing::Unknown)
    }

    fn derive_standing(&self, device: &DeviceId) -> Standing {
        if self.removed.contains(device) {
            return Standing::Removed;
        }
        match self.devices.get(device) {
            None => Standing::Unknown,
            Some(admissions) if admissions.iter().any(|id| self.admission_stands(id)) => Standing::Member,
            Some(_) => Standing::Contested,
        }
    }

    fn admission_stands(&self, id: &StatementId) -> bool {
        let Some(admission) = self.admission(id) else { return false };
        match self.read("pin", &admission.invitation.to_string()).map(|entry| &entry.body) {
            Some(Body::Pin(pin)) => pin.admission == *id,
            // A device that signed its admission once more, for an answer that was lost, does not contest itself.
            _ => self.admitted_by(&admission.invitation).iter().all(|device| *device == admission.device.device()),
        }
    }

    /// The admission by which a device is (or was) a member: the standing one, else the one of the lowest id.
    pub fn admission_of(&self, device: &DeviceId) -> Option<(&Entry, &Admission)> {
        let all = self.devices.get(device)?;
        let id = all.iter().filter(|id| self.admission_stands(id)).min().or_else(|| all.iter().min())?;
        Some((self.entries.get(id)?, self.admission(id)?))
    }

    /// The invitation of a one-time key, as it is read.
    pub fn invitation(&self, key: &Key) -> Option<(&Entry, &Invitation)> {
        let entry = self.read("invitation", &key.to_string())?;
        match &entry.body {
            Body::Invitation(invitation) => Some((entry, invitation)),
            _ => None,
        }
    }

    /// One-time keys of all invitations.
    pub fn invitations(&self) -> impl Iterator<Item = Key> + '_ {
        self.invitations.keys().copied()
    }

    /// The admissions by an invitation, in the order in which they were stored.
    pub fn admissions_by(&self, invitation: &Key) -> &[StatementId] {
        self.admissions.get(invitation).map_or(&[], Vec::as_slice)
    }

    /// The public key of a device.
    pub fn key_of(&self, device: &DeviceId) -> Option<Key> {
        self.admission_of(device).map(|(_, admission)| admission.device)
    }

    /// What operators say of a device: `name`, `zone`, `label/<key>`, …, each as it is read.
    pub fn attributes(&self, device: &DeviceId) -> BTreeMap<String, Attribute> {
        let mut attributes = BTreeMap::new();
        if let Some((entry, invitation)) =
            self.admission_of(device).and_then(|(_, admission)| self.invitation(&admission.invitation))
        {
            let mut initial = |name: String, value: &str| {
                let attribute = Attribute {
                    value: value.to_owned(),
                    author: entry.author(),
                    version: 0,
                    time_ms: entry.time_ms(),
                    others: Vec::new(),
                };
                attributes.insert(name, attribute);
            };
            initial("name".to_owned(), &invitation.name);
            initial("zone".to_owned(), &invitation.zone);
            for (label, value) in &invitation.labels {
                initial(format!("label/{label}"), value);
            }
        }
        for name in self.assigned_names(device) {
            self.overlay(device, &name, &mut attributes);
        }
        attributes
    }

    /// A device's zone: what operators assigned, else what its invitation says.
    pub fn zone_of(&self, device: &DeviceId) -> Option<String> {
        let assigned = self.read("assigned", &format!("{device}/zone")).and_then(|entry| match &entry.body {
            Body::Assigned(assigned) => assigned.value.clone(),
            _ => None,
        });
        let invited = || Some(self.invitation(&self.admission_of(device)?.1.invitation)?.1.zone.clone());
        assigned.or_else(invited)
    }

    fn assigned_names(&self, device: &DeviceId) -> Vec<String> {
        let prefix = format!("{device}/");
        self.standing
            .range(("assigned".to_owned(), prefix.clone())..)
            .take_while(|((kind, subject), _)| kind == "assigned" && subject.starts_with(&prefix))
            .map(|((_, subject), _)| subject[prefix.len()..].to_owned())
            .collect()
    }

    fn overlay(&self, device: &DeviceId, name: &str, attributes: &mut BTreeMap<String, Attribute>) {
        let standing = self.unreplaced("assigned", &format!("{device}/{name}"));
        let value_of = |entry: &Entry| match &entry.body {
            Body::Assigned(Assigned { value, .. }) => value.clone(),
            _ => None,
        };
        let Some((read, others)) = standing.split_first() else { return };
        match value_of(read) {
            // A device always has a name and a zone: those of its invitation stay when they are taken away.
            None if name == "name" || name == "zone" => {}
            None => {
                attributes.remove(name);
            }
            Some(value) => {
                let attribute = Attribute {
                    value,
                    author: read.author(),
                    version: read.signed.statement().version,
                    time_ms: read.time_ms(),
                    others: others.iter().filter_map(|entry| value_of(entry)).collect(),
                };
                attributes.insert(name.to_owned(), attribute);
            }
        }
    }

    /// All statements, by id.
    pub fn entries(&self) -> &BTreeMap<StatementId, Arc<Entry>> {
        &self.entries
    }

    /// The statements that prove a device's membership to someone who knows only the fleet id, in an order in which
    /// each can be judged: roots, operators who signed, the invitation, the admission.
    pub fn chain_of(&self, device: &DeviceId) -> Vec<&SignedStatement> {
        let of_kind = |kind: &'static str| {
            self.entries.values().map(Arc::as_ref).filter(move |entry| entry.body.kind() == kind && entry.in_force)
        };
        let mut chain: Vec<&Entry> = of_kind("root").collect();
        chain.sort_by_key(|entry| entry.signed.statement().version);
        let Some((admission, body)) = self.admission_of(device) else { return Vec::new() };
        let Some((invitation, _)) = self.invitation(&body.invitation) else { return Vec::new() };
        chain.extend(of_kind("operator").filter(|entry| match &entry.body {
            Body::Operator(operator) => invitation.signed.signatures().contains_key(&operator.key),
            _ => false,
        }));
        chain.push(invitation);
        chain.push(admission);
        chain.iter().map(|entry| &entry.signed).collect()
    }
}

#[cfg(test)]
mod tests;
