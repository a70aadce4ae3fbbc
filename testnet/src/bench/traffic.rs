//! What replication costs on the wire: what every node says of its sessions, and the loopback interface.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::machine::loopback_bytes;
use super::process::NodeProcess;
use super::report::{Row, median};

/// Bytes of a signature.
const SIGNATURE_BYTES: f64 = 64.0;

/// Counters at one moment.
pub(crate) struct Counters {
    /// (node, peer) → bytes given to the session's streams, copies of changes among them.
    sessions: BTreeMap<(String, String), (u64, u64)>,
    /// Change → its raw bytes, of all documents but the one that the bench writes.
    others: BTreeMap<String, u64>,
    loopback: u64,
}

impl Counters {
    /// Reads them; `written` is the document that the bench writes, whose changes it knows itself.
    pub(crate) async fn read(nodes: &mut [NodeProcess], written: &str) -> anyhow::Result<Counters> {
        let mut sessions = BTreeMap::new();
        for node in nodes.iter_mut() {
            let peers = node.client.get("/v1/peers").await?;
            for peer in peers.as_array().into_iter().flatten() {
                let number = |field: &str| peer[field].as_u64().with_context(|| format!("a session without {field}"));
                let name = peer["device"].as_str().context("a peer without a device")?;
                sessions.insert((node.id.clone(), name.to_owned()), (number("bytes_out")?, number("copies_out")?));
            }
        }
        let others = other_changes(&mut nodes[0], written).await?;
        Ok(Counters { sessions, others, loopback: loopback_bytes()? })
    }
}

async fn other_changes(node: &mut NodeProcess, written: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let documents = node.client.get("/v1/documents").await?;
    let names = documents.as_array().into_iter().flatten().filter_map(|document| document["document"].as_str());
    let mut changes = BTreeMap::new();
    for name in names.filter(|name| *name != written) {
        let log: Value = node.client.get(&format!("/v1/document/log?document={name}")).await?;
        for change in log.as_array().into_iter().flatten() {
            let hash = change["hash"].as_str().context("a change without hash")?;
            changes.insert(hash.to_owned(), change["bytes"].as_u64().context("a change without bytes")?);
        }
    }
    Ok(changes)
}

/// What one run of writes cost.
pub(crate) struct Cost {
    beyond: f64,
    copies: f64,
    loopback: f64,
}

/// The cost between two moments of the changes that the bench wrote, given their raw sizes, and of those that devices
/// wrote meanwhile.
pub(crate) fn cost(before: &Counters, after: &Counters, written: &[usize], nodes: usize) -> anyhow::Result<Cost> {
    let (mut bytes, mut copies) = (0, 0);
    for (session, (bytes_after, copies_after)) in &after.sessions {
        let (bytes_before, copies_before) = before.sessions.get(session).context("a session is new")?;
        ensure!(bytes_before <= bytes_after && copies_before <= copies_after, "a session was replaced");
        bytes += bytes_after - bytes_before;
        copies += copies_after - copies_before;
    }
    let others = after.others.iter().filter(|(hash, _)| !before.others.contains_key(*hash)).map(|(_, size)| *size);
    let sizes: Vec<f64> = written.iter().map(|size| *size as f64).chain(others.map(|size| size as f64)).collect();
    ensure!(copies > 0 && !sizes.is_empty(), "nothing was sent");
    let needed = sizes.iter().sum::<f64>() / sizes.len() as f64 + SIGNATURE_BYTES;
    let receivers = nodes.saturating_sub(1) as f64;
    Ok(Cost {
        beyond: bytes as f64 / copies as f64 - needed,
        copies: copies as f64 / (sizes.len() as f64 * receivers),
        loopback: after.loopback.saturating_sub(before.loopback) as f64 / (sizes.len() as f64 * receivers),
    })
}

/// Medians over the runs.
pub(crate) fn rows(runs: &[Cost]) -> Vec<Row> {
    let over = |pick: fn(&Cost) -> f64| median(&runs.iter().map(pick).collect::<Vec<_>>());
    vec![
        Row::new(
            "bytes to session streams, a copy sent, beyond raw change + signature",
            "bytes",
            over(|run| run.beyond),
        )
        .at_most(40.0),
        Row::new("copies sent, a change and node that lacks it", "copies", over(|run| run.copies)),
        Row::new("bytes on lo (UDP, IP, QUIC's acknowledgements), the same", "bytes", over(|run| run.loopback)),
    ]
}
