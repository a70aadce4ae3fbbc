//! An operator who signs in this process, as the CLI does, without the CLI's journal.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use crdt::change::{PreparedChange, sign};
use crdt::id::{DeviceId, FleetId, Key, StatementId, hex, unhex};
use crdt::statement::{Assigned, Body, SignedStatement};
use crdt::store::encode_record;
use ed25519_dalek::SigningKey;
use node::client::Client;
use serde_json::{Value, json};

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The secret in a key file: one line, a tag and 64 hexadecimal digits.
pub(crate) fn read_key(path: &Path, tag: &str) -> anyhow::Result<SigningKey> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let digits = text.trim().strip_prefix(tag).with_context(|| format!("{} is no {tag}", path.display()))?;
    Ok(SigningKey::from_bytes(&unhex(digits.trim())?))
}

/// Statements as API bodies carry them: hexadecimal postcard of their parts.
pub(crate) fn statements_body(statements: &[SignedStatement]) -> Value {
    let digits: Vec<String> = statements.iter().map(|signed| hex(&encode_record(&signed.parts()))).collect();
    json!({ "statements": digits })
}

/// An operator of a fleet.
pub(crate) struct Operator {
    pub(crate) fleet: FleetId,
    pub(crate) key: SigningKey,
    /// The last label that was given, which the next one replaces.
    label: Option<(StatementId, u64)>,
}

impl Operator {
    /// Reads the operator's key of a fleet.
    pub(crate) fn open(keys: &Path, fleet: &str) -> anyhow::Result<Operator> {
        let key = read_key(&keys.join(fleet).join("operator.key"), "fleetsync-operator-key-v1")?;
        Ok(Operator::of(fleet.parse()?, key))
    }

    /// The operator with that key.
    pub(crate) fn of(fleet: FleetId, key: SigningKey) -> Operator {
        Operator { fleet, key, label: None }
    }

    pub(crate) fn public(&self) -> Key {
        Key(self.key.verifying_key().to_bytes())
    }

    pub(crate) fn say(&self, body: Body, replaces: &[(StatementId, u64)]) -> SignedStatement {
        body.into_statement(Some(self.fleet), replaces, wall_ms()).sign(&self.key)
    }

    /// Signs a new value of the label `bench` and hands it in; returns when it is answered.
    pub(crate) async fn label(&mut self, client: &mut Client, device: &DeviceId, value: &str) -> anyhow::Result<()> {
        let assigned = Assigned { device: *device, attribute: "label/bench".to_owned(), value: Some(value.to_owned()) };
        let replaces: Vec<(StatementId, u64)> = self.label.into_iter().collect();
        let signed = self.say(Body::Assigned(assigned), &replaces);
        self.label = Some((signed.id(), signed.statement().version));
        client.post("/v1/statements", &statements_body(&[signed])).await?;
        Ok(())
    }

    /// `config set`: the node prepares, it is signed here, the node takes it. Returns the raw change's size in bytes
    /// when it is answered.
    pub(crate) async fn set(
        &self,
        client: &mut Client,
        document: &str,
        path: &str,
        value: impl Into<Value>,
    ) -> anyhow::Result<usize> {
        let edits = json!([{ "path": path, "value": value.into() }]);
        let body = json!({ "document": document, "author": self.public().to_string(), "edits": edits });
        let answer = client.post("/v1/changes/prepare", &body).await?;
        let digits = answer["change"].as_str().context("nothing was prepared")?;
        let prepared = unhex_all(digits).and_then(|bytes| PreparedChange::decode(&bytes));
        let prepared = prepared.context("what was prepared does not decode")?;
        ensure!(prepared.log.author == self.public(), "it was prepared for another operator");
        let hash = prepared.hash().context("what was prepared has no header")?;
        let actor = prepared.log.actor(&self.fleet);
        let signature = sign(&self.key, &self.fleet, &actor, prepared.seq, &prepared.chain_before.next(&hash));
        let body = json!({ "change": digits, "signature": hex(&signature.0) });
        client.post("/v1/changes/submit", &body).await?;
        Ok(prepared.raw.0.len())
    }
}

fn unhex_all(digits: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| digits.get(at..at + 2).and_then(|pair| unhex::<1>(pair).ok()).map(|byte| byte[0]);
    (0..digits.len()).step_by(2).map(pair).collect()
}
