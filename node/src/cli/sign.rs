//! Acting as an operator: what is signed is checked here, with the person's key, never in the daemon.

use crdt::change::PreparedChange;
use crdt::id::{FleetId, Key, StatementId, hex};
use crdt::raw::Action;
use crdt::schema::{DocumentName, Value};
use crdt::statement::{Body, Pin, SignatureBytes, SignedStatement};
use ed25519_dalek::SigningKey;
use serde_json::{Value as Json, json};

use super::{Common, Failure, code};
use crate::api::statement_to_hex;
use crate::api::values::{bytes_of, to_json};
use crate::client::{Client, ClientError, encode};
use crate::clock::wall_ms;
use crate::keys::{KeyKind, Keys, SignError, Signed};
use crate::output::note;

/// How often a change that lost a race is made anew.
const TRIES_MAX: u32 = 8;

/// An operator at a node.
pub(crate) struct Operator {
    pub(crate) fleet: FleetId,
    keys: Keys,
    key: SigningKey,
}

/// What became of a signed change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Submitted {
    Taken,
    /// Another change has its number.
    Lost,
    /// Its log ended without it.
    Ended,
}

/// An edit that the person asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wish {
    pub(crate) path: String,
    /// None takes the value away.
    pub(crate) value: Option<Value>,
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Failure {
        Failure::new(code::REFUSED, "nothing was signed").cause(&error).hint(error.hint())
    }
}

fn unexpected(what: &str) -> Failure {
    Failure::new(code::REFUSED, "the node's answer is not what was asked for").cause(what).hint("fleetsync status")
}

/// A field that is a text.
pub(crate) fn text<'a>(json: &'a Json, field: &str) -> Result<&'a str, Failure> {
    json[field].as_str().ok_or_else(|| unexpected(&format!("the field {field} is missing")))
}

impl Operator {
    /// Unlocks the operator's key of the node's fleet, and pins the admissions that nothing contests.
    pub(crate) async fn unlock(common: &Common, client: &mut Client) -> Result<Operator, Failure> {
        let roster = client.get("/v1/roster").await?;
        let fleet: FleetId = text(&roster, "fleet")?.parse().map_err(|_| unexpected("the fleet is no id"))?;
        let keys = Keys::open(&common.keys_dir()?, fleet);
        let key = keys.unlock(KeyKind::Operator, &common.passphrase()?)?;
        let operator = Operator { fleet, keys, key };
        operator.pin(client, &roster).await?;
        Ok(operator)
    }

    fn public(&self) -> Key {
        crate::identity::public(&self.key)
    }

    async fn pin(&self, client: &mut Client, roster: &Json) -> Result<(), Failure> {
        let mut pins = Vec::new();
        for unpinned in roster["unpinned"].as_array().into_iter().flatten() {
            let invitation = text(unpinned, "invitation")?.parse().map_err(|_| unexpected("no key"))?;
            let admission = text(unpinned, "admission")?.parse().map_err(|_| unexpected("no statement"))?;
            let pin = Body::Pin(Pin { invitation, admission });
            pins.push(pin.into_statement(Some(self.fleet), &[], wall_ms()).sign(&self.key));
        }
        if pins.is_empty() {
            return Ok(());
        }
        match post_statements(client, &pins).await {
            Ok(()) => note(&format!("pinned {} admission(s)", pins.len())),
            // An operator without the role enrol pins nothing, and need not.
            Err(failure) if failure.code == code::REFUSED => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Says something of a subject, replacing what stands.
    pub(crate) async fn state(&self, client: &mut Client, body: Body) -> Result<SignedStatement, Failure> {
        let resource = format!("/v1/subject?kind={}&subject={}", body.kind(), encode(&body.subject()));
        let standing = client.get(&resource).await?;
        let mut replaces: Vec<(StatementId, u64)> = Vec::new();
        for entry in standing.as_array().into_iter().flatten() {
            let id = text(entry, "id")?.parse().map_err(|_| unexpected("no statement"))?;
            let version = entry["version"].as_u64().ok_or_else(|| unexpected("no version"))?;
            replaces.push((id, version));
        }
        let signed = body.into_statement(Some(self.fleet), &replaces, wall_ms()).sign(&self.key);
        post_statements(client, std::slice::from_ref(&signed)).await?;
        Ok(signed)
    }

    /// Edits a document: the node prepares the change, it is checked and signed here, and the node takes it.
    /// Says whether anything was written.
    pub(crate) async fn edit(
        &self,
        client: &mut Client,
        document: &DocumentName,
        wishes: &[Wish],
    ) -> Result<bool, Failure> {
        self.resubmit(client).await?;
        for _ in 0..TRIES_MAX {
            let Some(prepared) = self.prepare(client, document, wishes).await? else { return Ok(false) };
            check(&prepared, document, wishes, &self.public()).map_err(|reason| unexpected(&reason))?;
            match self.keys.sign_change(&self.key, &prepared) {
                Ok(signed) => match self.submit(client, &signed).await {
                    Ok(Submitted::Taken) => return Ok(true),
                    Ok(Submitted::Lost | Submitted::Ended) => {}
                    Err(failure) => {
                        note("the change is signed and kept; it is handed in before the next one to this node");
                        return Err(failure);
                    }
                },
                // What was signed under this number before goes first.
                Err(SignError::Other(before)) => {
                    self.submit(client, &before).await?;
                }
                Err(SignError::History(before)) if !before.accepted => {
                    self.submit(client, &before).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::new(code::REFUSED, "other changes keep taking the place of this one")
            .cause(format!("it lost its place {TRIES_MAX} times"))
            .hint(format!("fleetsync doc log {document}")))
    }

    async fn prepare(
        &self,
        client: &mut Client,
        document: &DocumentName,
        wishes: &[Wish],
    ) -> Result<Option<PreparedChange>, Failure> {
        let edits: Vec<Json> = wishes
            .iter()
            .map(|wish| match &wish.value {
                Some(value) => json!({ "path": wish.path, "value": to_json(value) }),
                None => json!({ "path": wish.path, "delete": true }),
            })
            .collect();
        let body = json!({ "document": document.as_str(), "author": self.public().to_string(), "edits": edits });
        let answer = client.post("/v1/changes/prepare", &body).await?;
        if answer["unchanged"] == json!(true) {
            return Ok(None);
        }
        let bytes = bytes_of(text(&answer, "change")?).and_then(|bytes| PreparedChange::decode(&bytes));
        bytes.map(Some).ok_or_else(|| unexpected("the prepared change does not decode"))
    }

    /// Changes that were signed and whose answer was lost are handed in again, the same bytes.
    async fn resubmit(&self, client: &mut Client) -> Result<(), Failure> {
        let status = client.get("/v1/status").await?;
        let device = text(&status, "node")?.parse().map_err(|_| unexpected("the node is no id"))?;
        let open = self.keys.unaccepted(Some(&device))?;
        for damaged in &open.damaged {
            note(&format!("warning: {damaged}"));
        }
        for signed in &open.entries {
            let what = summary(signed);
            match self.submit(client, signed).await? {
                Submitted::Taken => note(&format!("handed in what was signed earlier and not taken then: {what}")),
                Submitted::Lost | Submitted::Ended => {
                    note(&format!("what was signed earlier was never taken, and cannot be any more: {what}"));
                }
            }
        }
        self.keys.prune()?;
        Ok(())
    }

    /// Hands a signed change in, and notes what became of it.
    async fn submit(&self, client: &mut Client, signed: &Signed) -> Result<Submitted, Failure> {
        let body = json!({ "change": hex(&signed.change.encode()), "signature": hex(&signed.signature.0) });
        match client.post("/v1/changes/submit", &body).await {
            Ok(_) => {
                self.keys.accepted(signed)?;
                Ok(Submitted::Taken)
            }
            Err(ClientError::Problem { status: 409, body, .. }) => {
                let (winner, signature) = winner(&body).ok_or_else(|| unexpected("the conflict does not decode"))?;
                self.keys.lost(signed, &winner, &signature)?;
                Ok(Submitted::Lost)
            }
            Err(ClientError::Problem { status: 410, .. }) => {
                self.keys.ended(signed)?;
                Ok(Submitted::Ended)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The document and the paths that a signed change sets.
fn summary(signed: &Signed) -> String {
    let paths: Vec<String> = match crdt::raw::decode(&signed.change.raw.0) {
        Ok(change) => change.operations.into_iter().map(|operation| operation.path).collect(),
        Err(_) => Vec::new(),
    };
    format!("{} {}", signed.change.log.document, paths.join(", "))
}

fn winner(problem: &Json) -> Option<(PreparedChange, SignatureBytes)> {
    let conflict = &problem["conflict"];
    let change = PreparedChange::decode(&bytes_of(conflict["change"].as_str()?)?)?;
    let signature = bytes_of(conflict["signature"].as_str()?)?.try_into().ok()?;
    Some((change, SignatureBytes(signature)))
}

async fn post_statements(client: &mut Client, statements: &[SignedStatement]) -> Result<(), Failure> {
    let statements: Vec<String> = statements.iter().map(|signed| statement_to_hex(&signed.parts())).collect();
    client.post("/v1/statements", &json!({ "statements": statements })).await?;
    Ok(())
}

/// Whether a prepared change does just what was asked for.
fn check(prepared: &PreparedChange, document: &DocumentName, wishes: &[Wish], author: &Key) -> Result<(), String> {
    let change = crdt::raw::decode(&prepared.raw.0).map_err(|error| error.to_string())?;
    if prepared.log.document != *document || prepared.log.author != *author {
        return Err(format!("it changes {} in the name of {}", prepared.log.document, prepared.log.author.short()));
    }
    for operation in &change.operations {
        let asked = wishes.iter().find(|wish| wish.path == operation.path);
        let does = match &operation.action {
            Action::Put(value) => Some(value),
            Action::Delete => None,
        };
        // An equal value writes nothing, so fewer operations than wishes are well; others are not.
        if asked.is_none_or(|wish| wish.value.as_ref() != does) {
            return Err(format!("it changes {} in a way that nobody asked for", operation.path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crdt::change::{LogName, RawBytes};
    use crdt::id::{Actor, ChainHash, DeviceId};
    use crdt::raw::{NewChange, Operation, encode};

    fn prepared(path: &str, value: i64, author: Key) -> PreparedChange {
        let document = DocumentName::config("a").unwrap();
        let log = LogName { document, epoch: 1, author, carrier: DeviceId([1; 32]), incarnation: 1 };
        let operation = Operation { path: path.to_owned(), action: Action::Put(Value::Int(value)), pred: Vec::new() };
        let new = NewChange {
            actor: Actor([1; 16]),
            seq: 1,
            start_op: 1,
            time_s: 0,
            message: None,
            deps: Vec::new(),
            operations: vec![operation],
        };
        PreparedChange { log, seq: 1, chain_before: ChainHash::START, raw: RawBytes(encode(&new).unwrap()) }
    }

    #[test]
    fn a_daemon_that_prepares_something_else_gets_no_signature() {
        let author = Key([2; 32]);
        let document = DocumentName::config("a").unwrap();
        let wishes = [Wish { path: "x".to_owned(), value: Some(Value::Int(1)) }];
        let check = |change: &PreparedChange, document| check(change, document, &wishes, &author);
        assert_eq!(check(&prepared("x", 1, author), &document), Ok(()));
        assert!(check(&prepared("x", 2, author), &document).is_err());
        assert!(check(&prepared("y", 1, author), &document).is_err());
        assert!(check(&prepared("x", 1, Key([3; 32])), &document).is_err());
        assert!(check(&prepared("x", 1, author), &DocumentName::config("b").unwrap()).is_err());
    }
}
