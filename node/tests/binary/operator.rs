//! An operator who signs by himself: the two steps of PROTOCOL 2 over one kept connection, to write quickly and to be
//! cut between any two steps.

use std::io;

use crdt::change::{PreparedChange, sign};
use crdt::id::{FleetId, hex, unhex};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use crate::api::Api;
use crate::fleet::Fleet;

/// An operator with his key.
pub(crate) struct Operator {
    fleet: FleetId,
    key: SigningKey,
    /// What was signed and not answered yet: it goes first, as the same bytes.
    open: Option<Value>,
}

impl Operator {
    /// The operator whose keys lie in the fleet's folder, without a passphrase.
    pub(crate) fn of(fleet: &Fleet) -> Operator {
        let folder = std::fs::read_dir(fleet.keys()).unwrap().next().unwrap().unwrap();
        let line = std::fs::read_to_string(folder.path().join("operator.key")).unwrap();
        let digits = line.trim().strip_prefix("fleetsync-operator-key-v1 ").unwrap();
        Operator {
            fleet: folder.file_name().to_str().unwrap().parse().unwrap(),
            key: SigningKey::from_bytes(&unhex(digits).unwrap()),
            open: None,
        }
    }

    /// Asks for a change; the answer's status and body.
    pub(crate) fn prepare(&self, api: &mut Api, document: &str, path: &str, value: &Value) -> io::Result<(u16, Value)> {
        let author = hex(&self.key.verifying_key().to_bytes());
        let edits = json!([{ "path": path, "value": value }]);
        let body = json!({ "document": document, "author": author, "edits": edits });
        let answer = api.post("/v1/changes/prepare", &body)?;
        Ok((answer.status, answer.json()))
    }

    /// Sets a value. `Ok` where the node has acknowledged it, its status otherwise.
    pub(crate) fn set(&mut self, api: &mut Api, document: &str, path: &str, value: &Value) -> io::Result<u16> {
        self.resubmit(api)?;
        let (status, prepared) = self.prepare(api, document, path, value)?;
        let Some(digits) = prepared["change"].as_str() else { return Ok(status) };
        let bytes: Vec<u8> = digits
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let change = PreparedChange::decode(&bytes).unwrap();
        let chain = change.chain_before.next(&change.hash().unwrap());
        let signature = sign(&self.key, &self.fleet, &change.log.actor(&self.fleet), change.seq, &chain);
        self.open = Some(json!({ "change": digits, "signature": hex(&signature.0) }));
        self.resubmit(api)
    }

    /// Hands in what was signed before and got no answer.
    pub(crate) fn resubmit(&mut self, api: &mut Api) -> io::Result<u16> {
        let Some(open) = &self.open else { return Ok(200) };
        let answer = api.post("/v1/changes/submit", open)?;
        self.open = None;
        Ok(answer.status)
    }
}
