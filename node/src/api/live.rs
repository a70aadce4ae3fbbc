//! What devices themselves answer, asked over the mesh: not what this node's replica has of them.

use axum::Json;
use axum::extract::State;
use crdt::id::{DeviceId, Key};
use serde_json::{Map, Value, json};

use super::devices::{assigned, resolve};
use super::routes::millis;
use super::status::{name_of, presence_text};
use super::values::to_json;
use super::{Api, Path, Problem};
use crate::agent::{AnswerOf, Answered, AskError, Fact, Node, Place, Question};

/// Most pages of facts that are asked for.
const PAGES_MAX: usize = 256;

/// A device that is asked.
struct Asked {
    device: DeviceId,
    key: Key,
    name: String,
    presence: Option<String>,
}

impl Asked {
    fn of(node: &Node, word: &str) -> Result<Asked, Problem> {
        let device = resolve(node, word)?;
        let name = name_of(node, &device);
        let key = node.engine.replica().roster().key_of(&device);
        let key = key.ok_or_else(|| Problem::not_found(format!("the key of {name} is not known here")))?;
        let presence = node.presences().get(&device).map(|presence| presence_text(node, *presence));
        Ok(Asked { device, key, name, presence })
    }

    async fn ask(&self, api: &Api, question: Question) -> Result<Answered, Problem> {
        let answered = api.agent.ask(self.key, question).await?;
        answered.map_err(|error| self.problem(&error))
    }

    fn problem(&self, error: &AskError) -> Problem {
        let seen = self.presence.as_deref().unwrap_or("unknown");
        Problem::no_answer(format!("{}: {error}; as this node sees it, it is {seen}", self.name))
            .hint(format!("fleetsync route show {}", self.name))
    }
}

/// How an answer came.
async fn way_of(api: &Api, answered: &Answered) -> Result<Value, Problem> {
    let hops = answered.hops.clone();
    let name = |node: &Node, hop: &DeviceId| json!({ "device": hop.to_string(), "name": name_of(node, hop) });
    let named = api.agent.look(move |node| hops.iter().map(|hop| name(node, hop)).collect::<Vec<Value>>()).await?;
    Ok(json!({ "rtt_ms": millis(answered.micros as f64), "hops": named }))
}

/// `GET /v1/ping/{device}`: one question and its answer.
pub(super) async fn ping(State(api): State<Api>, Path(word): Path<String>) -> Result<Json<Value>, Problem> {
    let asked = api.agent.look(move |node| Asked::of(node, &word)).await??;
    let answered = asked.ask(&api, Question::Ping).await?;
    let mut answer = way_of(&api, &answered).await?;
    answer["device"] = json!(asked.device.to_string());
    answer["name"] = json!(asked.name);
    Ok(Json(answer))
}

/// A device as it describes itself now, in the form of `GET /v1/devices/{device}`.
pub(super) async fn show(api: &Api, word: String, path: String) -> Result<Json<Value>, Problem> {
    let prefix = path.clone();
    let look = move |node: &Node| {
        let asked = Asked::of(node, &word)?;
        let assigned = assigned(node, &asked.device, &prefix, node.clock.wall_ms());
        Ok::<_, Problem>((asked, assigned))
    };
    let (asked, assigned) = api.agent.look(look).await??;
    let (mut facts, mut after, mut way) = (Map::new(), None, Value::Null);
    for _ in 0..PAGES_MAX {
        let answered = asked.ask(api, Question::Facts { path: path.clone(), after: after.take() }).await?;
        way = way_of(api, &answered).await?;
        let AnswerOf::Facts { facts: page, has_more } = answered.reply else { break };
        after = page.last().map(|fact| fact.place.clone());
        facts.extend(page.into_iter().map(|fact| fact_to_json(fact, &asked.name)));
        if !has_more || after.is_none() {
            break;
        }
    }
    if facts.is_empty() && assigned.is_empty() && !path.is_empty() {
        let detail = format!("{} has no value at {path}", asked.name);
        return Err(Problem::not_found(detail).hint(format!("fleetsync device get {} --live", asked.device)));
    }
    Ok(Json(json!({
        "device": asked.device.to_string(),
        "name": asked.name,
        "presence": asked.presence,
        "assigned": assigned,
        "facts": facts,
        "live": way,
    })))
}

fn fact_to_json(fact: Fact, name: &str) -> (String, Value) {
    let Place { document, path } = fact.place;
    let fact = json!({
        "value": to_json(&fact.value),
        "author": name,
        "carrier": name,
        "age_s": fact.age_s,
        "origin": "fact",
        "document": document,
        "view": name,
    });
    (path, fact)
}
