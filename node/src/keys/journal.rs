//! The journal: what was signed, so that no number of a log is ever signed for a second change (PROTOCOL 2).
//!
//! One file a signature, `signed/<actor>/<seq>.json`, on disk before the signature is handed out. The numbers of a log
//! only grow, and each change builds on the one that was signed before it, so the newest entries are enough: older ones
//! are pruned, and a number below the newest that is gone is refused, not signed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crdt::change::{PreparedChange, is_vouched, sign};
use crdt::id::{Actor, ChainHash, ChangeHash, DeviceId, FleetId, hex, unhex};
use crdt::statement::SignatureBytes;
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::keys::folder::{self, LOCK_WAIT, Lock};
use crate::keys::{KeyError, Keys, SignError, public_of};

/// Most accepted entries that [`Keys::prune`] keeps of a log.
pub(crate) const ACCEPTED_MAX: usize = 1000;
/// Format number of an entry.
const ENTRY_VERSION: u64 = 1;
/// Largest entry, bytes: a change of 64 KiB in hexadecimal, and the rest.
const ENTRY_BYTES_MAX: u64 = 192 * 1024;

/// A change with the signature over its log up to it, as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The log.
    pub(crate) actor: Actor,
    /// The change's number there, from 1.
    pub(crate) seq: u64,
    /// The change's hash.
    pub(crate) hash: ChangeHash,
    /// What was signed.
    pub(crate) change: PreparedChange,
    /// The author's signature.
    pub(crate) signature: SignatureBytes,
    /// Whether a node said that it took it.
    pub(crate) accepted: bool,
    /// The chain after the change that has the number instead: signed with the same key from another folder.
    pub(crate) lost_to: Option<ChainHash>,
    /// Whether its log ended without it: the node was restored since, and goes on in other logs.
    pub(crate) ended: bool,
}

/// What a node may not have taken yet.
#[derive(Debug, Default)]
pub(crate) struct Unaccepted {
    /// To be submitted again; by log, the oldest of a log first.
    pub(crate) entries: Vec<Signed>,
    /// Entries that cannot be read, of any node; their logs are left out.
    pub(crate) damaged: Vec<KeyError>,
}

/// An entry as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: u64,
    actor: String,
    seq: u64,
    hash: String,
    change: String,
    signature: String,
    accepted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost_to: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
}

impl Signed {
    /// The chain that the next change of the log builds on.
    fn chain_after(&self) -> ChainHash {
        self.lost_to.unwrap_or_else(|| self.change.chain_before.next(&self.hash))
    }

    /// Whether nothing is left to be submitted.
    fn is_settled(&self) -> bool {
        self.accepted || self.lost_to.is_some() || self.ended
    }

    /// One line of JSON.
    pub(super) fn to_json(&self) -> String {
        let entry = Entry {
            version: ENTRY_VERSION,
            actor: self.actor.to_string(),
            seq: self.seq,
            hash: self.hash.to_string(),
            change: hex(&self.change.encode()),
            signature: hex(&self.signature.0),
            accepted: self.accepted,
            lost_to: self.lost_to.map(|chain| chain.to_string()),
            ended: self.ended,
        };
        serde_json::to_string(&entry).expect("texts and numbers always encode") + "\n"
    }

    /// Reads an entry and checks that it is whole: every part follows from the change or verifies.
    fn from_json(bytes: &[u8], fleet: &FleetId, actor: Actor, seq: u64) -> Result<Signed, &'static str> {
        let entry: Entry = serde_json::from_slice(bytes).map_err(|_| "it is not the JSON of an entry")?;
        if entry.version != ENTRY_VERSION {
            return Err("its version is not known here");
        }
        let change = unhex_all(&entry.change).and_then(|bytes| PreparedChange::decode(&bytes));
        let change = change.ok_or("its change cannot be read")?;
        let hash = change.hash().filter(|hash| hash.to_string() == entry.hash).ok_or("its hash is another one")?;
        let is_here = change.log.actor(fleet) == actor && change.seq == seq;
        if !is_here || entry.actor != actor.to_string() || entry.seq != seq {
            return Err("it belongs to another log or number");
        }
        let signature = unhex(&entry.signature).map(SignatureBytes).map_err(|_| "its signature cannot be read")?;
        let chain = change.chain_before.next(&hash);
        if !is_vouched(&change.log.author, fleet, &actor, seq, &chain, &signature) {
            return Err("its signature does not verify");
        }
        let lost_to = entry.lost_to.map(|chain| chain.parse().map_err(|_| "what it lost to cannot be read"));
        let (accepted, ended) = (entry.accepted, entry.ended);
        Ok(Signed { actor, seq, hash, change, signature, accepted, lost_to: lost_to.transpose()?, ended })
    }
}

fn unhex_all(text: &str) -> Option<Vec<u8>> {
    let byte = |pair| std::str::from_utf8(pair).ok().and_then(|pair| unhex::<1>(pair).ok()).map(|[byte]| byte);
    text.as_bytes().chunks(2).map(byte).collect()
}

/// The entries of one log.
struct Log {
    fleet: FleetId,
    actor: Actor,
    folder: PathBuf,
}

impl Log {
    /// The numbers that have an entry.
    fn seqs(&self) -> Result<BTreeSet<u64>, KeyError> {
        let number = |name: &String| name.strip_suffix(".json").and_then(|seq| seq.parse::<u64>().ok());
        Ok(folder::names(&self.folder)?.iter().filter_map(number).collect())
    }

    fn path(&self, seq: u64) -> PathBuf {
        self.folder.join(format!("{seq}.json"))
    }

    fn read(&self, seq: u64) -> Result<Signed, KeyError> {
        let path = self.path(seq);
        let bytes = match folder::read(&path, ENTRY_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(KeyError::NoEntry { path }),
            Err(KeyError::Malformed { path, reason }) => return Err(KeyError::Damaged { path, reason }),
            Err(error) => return Err(error),
        };
        Signed::from_json(&bytes, &self.fleet, self.actor, seq).map_err(|reason| KeyError::Damaged { path, reason })
    }

    /// The entries after the newest one that is settled: a change that a node took has all before it.
    fn open_entries(&self) -> Result<Vec<Signed>, KeyError> {
        let mut open = Vec::new();
        for seq in self.seqs()?.into_iter().rev() {
            match self.read(seq)? {
                entry if entry.is_settled() => break,
                entry => open.push(entry),
            }
        }
        open.reverse();
        Ok(open)
    }

    /// Refuses a number that cannot be signed without contradicting an entry.
    fn check_next(&self, seqs: &BTreeSet<u64>, prepared: &PreparedChange) -> Result<(), SignError> {
        let seq = prepared.seq;
        if let Some(newest) = seqs.last().filter(|newest| **newest > seq) {
            return Err(SignError::Behind { seq, newest: *newest });
        }
        // Without an entry just before it, another folder with this key signed in between: the node's word counts.
        if let Some(before) = seq.checked_sub(1).filter(|before| seqs.contains(before)) {
            let before = self.read(before)?;
            if before.chain_after() != prepared.chain_before {
                return Err(SignError::History(Box::new(before)));
            }
        }
        Ok(())
    }

    fn prune(&self, keep: usize) -> Result<usize, KeyError> {
        let seqs = self.seqs()?;
        let first_open = self.open_entries()?.first().map(|entry| entry.seq);
        let settled: Vec<u64> = seqs.into_iter().filter(|seq| first_open.is_none_or(|open| *seq < open)).collect();
        let excess = settled.len().saturating_sub(keep.max(1));
        for seq in &settled[..excess] {
            folder::remove(&self.path(*seq))?;
        }
        if excess > 0 {
            folder::sync(&self.folder)?;
        }
        Ok(excess)
    }
}

/// What must hold of a change before it is signed: it is one, and is what its sender says. Returns its log and hash.
fn check_prepared(fleet: &FleetId, prepared: &PreparedChange) -> Result<(Actor, ChangeHash), SignError> {
    let actor = prepared.log.actor(fleet);
    let raw = crdt::raw::decode(&prepared.raw.0).map_err(|error| SignError::Unsound(error.to_string()))?;
    if raw.actor != actor {
        return Err(SignError::Unsound("the raw change belongs to another log".to_owned()));
    }
    if raw.seq != prepared.seq || prepared.seq == 0 {
        return Err(SignError::Unsound("the raw change has another number".to_owned()));
    }
    if prepared.seq == 1 && prepared.chain_before != ChainHash::START {
        return Err(SignError::Unsound("the first change builds on an earlier one".to_owned()));
    }
    Ok((actor, raw.hash))
}

impl Keys {
    /// Signs a change, at most one for each number of a log, and stores it before the signature is handed out.
    ///
    /// Derives the log and the hash itself. A change that was signed before is returned as it was signed then; where
    /// the number was signed for another change, [`SignError::Other`] has that one, to be submitted again. The change
    /// must build on the one that was signed just before it. Waits up to five seconds for another command.
    pub(crate) fn sign_change(&self, key: &SigningKey, prepared: &PreparedChange) -> Result<Signed, SignError> {
        let (actor, hash) = check_prepared(&self.fleet(), prepared)?;
        if public_of(key) != prepared.log.author {
            return Err(SignError::Author);
        }
        let log = self.log(actor);
        folder::create(&log.folder)?;
        let _lock = self.lock()?;
        let seqs = log.seqs()?;
        if seqs.contains(&prepared.seq) {
            let entry = log.read(prepared.seq)?;
            return if entry.hash == hash { Ok(entry) } else { Err(SignError::Other(Box::new(entry))) };
        }
        log.check_next(&seqs, prepared)?;
        let chain = prepared.chain_before.next(&hash);
        let signed = Signed {
            actor,
            seq: prepared.seq,
            hash,
            change: prepared.clone(),
            signature: sign(key, &self.fleet(), &actor, prepared.seq, &chain),
            accepted: false,
            lost_to: None,
            ended: false,
        };
        folder::write_new(&log.path(prepared.seq), signed.to_json().as_bytes())?;
        if seqs.is_empty() {
            // The folders may be those of a command that crashed before it made them durable.
            folder::sync(&self.signed_folder())?;
            folder::sync(self.folder())?;
        }
        Ok(signed)
    }

    /// Notes that a node took the change. Idempotent; an entry that lost its number stays lost.
    pub(crate) fn accepted(&self, signed: &Signed) -> Result<(), KeyError> {
        self.update(signed, |entry| entry.accepted = entry.lost_to.is_none())?;
        Ok(())
    }

    /// Notes that another change has the number, signed with the same key from another folder, so that the log can
    /// go on over that one. `winner` and `signature` are what the node answered; both are checked.
    pub(crate) fn lost(
        &self,
        signed: &Signed,
        winner: &PreparedChange,
        signature: &SignatureBytes,
    ) -> Result<(), SignError> {
        let (actor, hash) = check_prepared(&self.fleet(), winner)?;
        let chain = winner.chain_before.next(&hash);
        let is_vouched = is_vouched(&signed.change.log.author, &self.fleet(), &actor, winner.seq, &chain, signature);
        if actor != signed.actor || winner.seq != signed.seq || hash == signed.hash || !is_vouched {
            return Err(SignError::NotLost(signed.seq));
        }
        let entry = self.update(signed, |entry| entry.lost_to = (!entry.accepted).then_some(chain))?;
        if entry.lost_to == Some(chain) { Ok(()) } else { Err(SignError::NotLost(signed.seq)) }
    }

    /// Notes that a node says that the change's log ended without it. The number is never signed again all the same.
    pub(crate) fn ended(&self, signed: &Signed) -> Result<(), KeyError> {
        self.update(signed, |entry| entry.ended = !entry.accepted && entry.lost_to.is_none())?;
        Ok(())
    }

    /// What was signed in logs on `carrier` (on any where it is `None`) and not yet accepted: the answer was lost, or
    /// the change never left. Entries before an accepted one are settled with it.
    pub(crate) fn unaccepted(&self, carrier: Option<&DeviceId>) -> Result<Unaccepted, KeyError> {
        let mut found = Unaccepted::default();
        for log in self.logs()? {
            match log.open_entries() {
                Ok(entries) => {
                    let is_wanted = |entry: &Signed| carrier.is_none_or(|carrier| entry.change.log.carrier == *carrier);
                    found.entries.extend(entries.into_iter().filter(is_wanted));
                }
                Err(error @ KeyError::Damaged { .. }) => found.damaged.push(error),
                // Pruned since it was listed: a newer one is settled.
                Err(KeyError::NoEntry { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Removes the oldest settled entries of every log beyond [`ACCEPTED_MAX`]; says how many. Logs with a damaged
    /// entry among the newest stay as they are.
    pub(crate) fn prune(&self) -> Result<usize, KeyError> {
        self.prune_to(ACCEPTED_MAX)
    }

    pub(super) fn prune_to(&self, keep: usize) -> Result<usize, KeyError> {
        let logs = self.logs()?;
        if logs.is_empty() {
            return Ok(0);
        }
        let _lock = self.lock()?;
        let mut removed = 0;
        for log in logs {
            match log.prune(keep) {
                Err(KeyError::Damaged { .. }) => {}
                done => removed += done?,
            }
        }
        Ok(removed)
    }

    /// Changes what is noted beside a signature; returns the entry as it is then.
    fn update(&self, signed: &Signed, change: impl FnOnce(&mut Signed)) -> Result<Signed, KeyError> {
        let log = self.log(signed.actor);
        let _lock = self.lock()?;
        let mut entry = log.read(signed.seq)?;
        if entry.hash != signed.hash {
            return Err(KeyError::NoEntry { path: log.path(signed.seq) });
        }
        let before = entry.clone();
        change(&mut entry);
        if entry != before {
            folder::replace(&log.path(signed.seq), entry.to_json().as_bytes())?;
        }
        Ok(entry)
    }

    fn lock(&self) -> Result<Lock, KeyError> {
        folder::lock(self.folder(), LOCK_WAIT)
    }

    fn log(&self, actor: Actor) -> Log {
        let folder = self.signed_folder().join(actor.to_string());
        Log { fleet: self.fleet(), actor, folder }
    }

    fn logs(&self) -> Result<Vec<Log>, KeyError> {
        let mut actors: Vec<Actor> = folder::names(&self.signed_folder())?
            .iter()
            .filter_map(|name| name.parse::<Actor>().ok().filter(|actor| actor.to_string() == *name))
            .collect();
        actors.sort_unstable();
        Ok(actors.into_iter().map(|actor| self.log(actor)).collect())
    }

    fn signed_folder(&self) -> PathBuf {
        self.folder().join("signed")
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests;
