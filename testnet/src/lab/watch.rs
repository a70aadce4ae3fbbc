//! What all nodes say of themselves, asked at once over kept connections.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::join_all;
use node::client::Client;
use serde_json::Value;

/// How long a node may take to answer. One that stands still never does.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two looks at whether nodes agree.
const POLL: Duration = Duration::from_millis(50);

/// One node, and the connection to it while it answers.
struct Watched {
    name: String,
    socket: PathBuf,
    client: Option<Client>,
}

impl Watched {
    async fn ask(&mut self, resource: &str) -> Option<Value> {
        let asked = async {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => Client::connect(&self.socket).await.ok()?,
            };
            let answer = client.get(resource).await.ok()?;
            self.client = Some(client);
            Some(answer)
        };
        // A connection that does not answer in time is not kept.
        tokio::time::timeout(ANSWER, asked).await.ok().flatten()
    }
}

/// Nodes that are asked together.
pub(crate) struct Watch {
    nodes: Vec<Watched>,
}

/// Where all agree.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Agreement {
    /// `root_durable` of all.
    pub(crate) root_durable: String,
    pub(crate) documents: u64,
    pub(crate) changes: u64,
    /// From the first look.
    pub(crate) after: Duration,
}

impl Watch {
    /// Nodes by name, with their data folders.
    pub(crate) fn new(nodes: impl IntoIterator<Item = (String, PathBuf)>) -> Watch {
        let watched =
            |(name, folder): (String, PathBuf)| Watched { name, socket: folder.join("api.sock"), client: None };
        Watch { nodes: nodes.into_iter().map(watched).collect() }
    }

    /// What each answers; `None` where it does not.
    pub(crate) async fn ask(&mut self, resource: &str) -> Vec<Option<Value>> {
        join_all(self.nodes.iter_mut().map(|node| node.ask(resource))).await
    }

    /// Waits until all nodes have the same `root` and `root_durable`, none waits for something, and each has a link.
    ///
    /// # Errors
    ///
    /// What differs, a line for each node, where they do not agree in time.
    pub(crate) async fn agree(&mut self, within: Duration) -> Result<Agreement, Vec<String>> {
        let start = Instant::now();
        loop {
            let statuses = self.ask("/v1/status").await;
            let differences = self.differences(&statuses);
            match statuses.first().and_then(Option::as_ref) {
                Some(first) if differences.is_empty() => {
                    let number = |key: &str| first[key].as_u64().unwrap_or(0);
                    return Ok(Agreement {
                        root_durable: text(first, "root_durable").to_owned(),
                        documents: number("documents"),
                        changes: number("changes"),
                        after: start.elapsed(),
                    });
                }
                _ if start.elapsed() > within => return Err(differences),
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Waits until the one of each pair says that it has a link with the other.
    ///
    /// # Errors
    ///
    /// Who has none with whom, a line for each pair, where they have not in time.
    pub(crate) async fn linked(&mut self, pairs: &[(usize, usize)], within: Duration) -> Result<Duration, Vec<String>> {
        let start = Instant::now();
        loop {
            let answers = self.ask("/v1/peers").await;
            let missing = missing(pairs, &self.names(), &answers);
            match missing.is_empty() {
                true => return Ok(start.elapsed()),
                false if start.elapsed() > within => return Err(missing),
                false => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        self.nodes.iter().map(|node| node.name.as_str()).collect()
    }

    fn differences(&self, statuses: &[Option<Value>]) -> Vec<String> {
        differences(&self.names().into_iter().zip(statuses).collect::<Vec<_>>())
    }
}

fn text<'a>(status: &'a Value, key: &str) -> &'a str {
    status[key].as_str().unwrap_or("-")
}

/// The first digits of a root.
pub(crate) fn short(root: &str) -> &str {
    root.get(..8).unwrap_or(root)
}

/// What keeps nodes from agreeing; nothing where they do.
fn differences(answers: &[(&str, &Option<Value>)]) -> Vec<String> {
    let state = |status: &Value| {
        let known = &status["peers"]["known"];
        (text(status, "root").to_owned(), text(status, "root_durable").to_owned(), known.as_u64())
    };
    let first = answers.iter().find_map(|(_, answer)| answer.as_ref().map(state));
    let are_equal = answers.iter().all(|(_, answer)| answer.as_ref().map(state) == first);
    let line = |(name, answer): &(&str, &Option<Value>)| {
        let Some(status) = answer else { return Some(format!("{name}: no answer")) };
        let (up, behind) = (status["peers"]["up"].as_u64().unwrap_or(0), status["behind"].as_u64().unwrap_or(0));
        let is_alone = up == 0 && answers.len() > 1;
        if are_equal && !is_alone && behind == 0 {
            return None;
        }
        Some(format!(
            "{name}: root {}, root_durable {}, {} of {} peers up, behind with {behind}, {} changes",
            short(text(status, "root")),
            short(text(status, "root_durable")),
            up,
            status["peers"]["known"],
            status["changes"],
        ))
    };
    answers.iter().filter_map(line).collect()
}

/// The pairs of which the one does not say that it is linked with the other.
fn missing(pairs: &[(usize, usize)], names: &[&str], answers: &[Option<Value>]) -> Vec<String> {
    let line = |(one, other): &(usize, usize)| {
        let peers = answers[*one].as_ref().and_then(Value::as_array)?;
        let peer = peers.iter().find(|peer| text(peer, "name") == names[*other]);
        let errors = peer.map(|peer| peer["errors"].to_string()).unwrap_or_default();
        let is_linked = peer.is_some_and(|peer| text(peer, "state") == "up");
        (!is_linked).then(|| format!("{} is not linked with {}: {errors}", names[*one], names[*other]))
    };
    let unanswered = pairs.iter().filter(|(one, _)| answers[*one].is_none());
    let unanswered = unanswered.map(|(one, _)| format!("{}: no answer", names[*one]));
    unanswered.chain(pairs.iter().filter_map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(root: &str, durable: &str, up: u64, behind: u64) -> Option<Value> {
        Some(json!({ "root": root, "root_durable": durable, "changes": 3, "behind": behind,
            "peers": { "known": 1, "up": up } }))
    }

    #[test]
    fn a_link_is_missing_that_is_not_up_or_of_which_nothing_is_said() {
        let peer = |name: &str, state: &str| json!({ "name": name, "state": state, "errors": ["a", "b"] });
        let answers = [Some(json!([peer("b", "up"), peer("c", "down")])), None, Some(json!([]))];
        let of = |pairs: &[(usize, usize)]| missing(pairs, &["a", "b", "c"], &answers);
        assert!(of(&[(0, 1)]).is_empty());
        assert_eq!(of(&[(0, 2)]), ["a is not linked with c: [\"a\",\"b\"]"]);
        assert_eq!(of(&[(1, 0), (2, 0)]), ["b: no answer", "c is not linked with a: "]);
    }

    #[test]
    fn nodes_agree_with_equal_roots_links_and_nothing_to_come() {
        let of = |a: Option<Value>, b: Option<Value>| differences(&[("a", &a), ("b", &b)]).len();
        assert_eq!(of(status("1", "1", 1, 0), status("1", "1", 1, 0)), 0);
        assert_eq!(of(status("1", "1", 1, 0), status("2", "1", 1, 0)), 2);
        assert_eq!(of(status("1", "1", 1, 0), status("1", "2", 1, 0)), 2);
        assert_eq!(of(status("1", "1", 1, 0), status("1", "1", 1, 4)), 1);
        assert_eq!(of(status("1", "1", 1, 0), status("1", "1", 0, 0)), 1);
        assert_eq!(of(status("1", "1", 1, 0), None), 2);
        assert_eq!(of(None, None), 2);
    }
}
