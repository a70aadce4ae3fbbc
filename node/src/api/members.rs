//! The roster: members, and what a CLI needs to sign statements.

use axum::Json;
use axum::extract::State;
use crdt::roster::Standing;
use serde::Deserialize;
use serde_json::{Value, json};

use super::devices::operator_name;
use super::status::name_of;
use super::{Api, Problem, Query};
use crate::agent::{Node, Presence};

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let list = |node: &Node| {
        let roster = node.engine.replica().roster();
        let presences = node.presences();
        let mut members: Vec<Value> = roster
            .devices()
            .map(|device| {
                let standing = roster.standing(&device);
                let entry = roster.admission_of(&device).and_then(|(_, admission)| {
                    roster.invitation(&admission.invitation).map(|(entry, _)| (entry, admission.invitation))
                });
                json!({
                    "device": device.to_string(),
                    "name": name_of(node, &device),
                    "standing": format!("{standing:?}").to_lowercase(),
                    "present": presences.get(&device).is_some_and(|presence| !matches!(presence, Presence::Away(_))),
                    "invited_by": entry.and_then(|(entry, _)| entry.author()).map(|key| operator_name(node, &key)),
                    "invitation": entry.map(|(_, key)| key.to_string()),
                    "is_contested": standing == Standing::Contested,
                })
            })
            .collect();
        members.sort_by_cached_key(|member| ["name", "device"].map(|field| member[field].as_str().map(str::to_owned)));
        Value::Array(members)
    };
    Ok(Json(api.agent.look(list).await?))
}

/// What a person's CLI must know to sign: the fleet, the root in force, operators, addresses for tickets, and the
/// admissions that no pin names yet and that nothing contests.
pub(super) async fn roster(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let report = |node: &Node| {
        let roster = node.engine.replica().roster();
        let addresses: Vec<Value> = crate::agent::announced(&node.listening, &node.reachable)
            .into_iter()
            .map(|address| json!({ "peer": node.key.to_string(), "address": address }))
            .collect();
        let unpinned: Vec<Value> = roster
            .invitations()
            .filter(|key| roster.read("pin", &key.to_string()).is_none())
            .filter_map(|key| match roster.admissions_by(&key) {
                [admission] => Some(json!({ "invitation": key.to_string(), "admission": admission.to_string() })),
                _ => None,
            })
            .collect();
        let operators: Vec<Value> = roster
            .operators()
            .iter()
            .map(|(key, operator)| {
                let roles: Vec<&str> = operator.roles.iter().map(|role| role.name()).collect();
                json!({ "key": key.to_string(), "name": operator.name, "roles": roles })
            })
            .collect();
        json!({
            "fleet": node.fleet.to_string(),
            "root": roster.read("root", "root").map(|entry| entry.signed.id().to_string()),
            "operators": operators,
            "addresses": addresses,
            "unpinned": unpinned,
        })
    };
    Ok(Json(api.agent.look(report).await?))
}

/// Devices that asked to join without a ticket.
pub(super) async fn wishes(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let list = |node: &Node| {
        let wishes = node.wishes.iter().map(|(device, wish)| {
            json!({
                "device": device.device().to_string(),
                "name": wish.name,
                "address": wish.address,
                "age_s": node.clock.wall_ms().saturating_sub(wish.asked_ms) / 1000,
                "one_time": wish.one_time.to_string(),
            })
        });
        Value::Array(wishes.collect())
    };
    Ok(Json(api.agent.look(list).await?))
}

#[derive(Deserialize)]
pub(super) struct SubjectQuery {
    kind: String,
    subject: String,
}

/// The statements of a subject that nothing replaces: what a new version of it must name.
pub(super) async fn subject(State(api): State<Api>, Query(query): Query<SubjectQuery>) -> Result<Json<Value>, Problem> {
    let list = move |node: &Node| {
        let roster = node.engine.replica().roster();
        let entries: Vec<Value> = roster
            .unreplaced(&query.kind, &query.subject)
            .into_iter()
            .map(|entry| json!({ "id": entry.signed.id().to_string(), "version": entry.signed.statement().version }))
            .collect();
        Value::Array(entries)
    };
    Ok(Json(api.agent.look(list).await?))
}
