//! What questions cost the node that answers them.

use std::sync::mpsc;

use automerge::ReadDoc;
use crdt::schema::{Kind, VALUE_BYTES_MAX, Value};
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use super::read::READS_MAX;
use crate::client::Client;
use crate::fixture::{Fleet, JumpingClock, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_hang_hold_up_neither_the_agent_nor_each_other() {
    let fleet = Fleet::new();
    let mut a = fleet.found("a", JumpingClock::at(0)).await;
    let mut hanging = Vec::new();
    for number in 1..=READS_MAX {
        let (release, released) = mpsc::channel::<()>();
        let (started, starts) = mpsc::channel();
        let api = a.api.clone();
        let asker = tokio::spawn(async move {
            let read = move |(), _: &dyn crdt::store::LogStore| {
                started.send(()).unwrap();
                // An error means that the test lets it go.
                let _ = released.recv();
                Ok(())
            };
            api.read(|_| Ok(()), read).await
        });
        within("a read that hangs", async || starts.try_recv().is_ok()).await;
        fleet.set(&a, "camera", "gain", Value::Uint(number as u64)).await;
        if number < READS_MAX {
            assert_eq!(a.get("/v1/document?document=config/camera").await["values"]["gain"]["value"], json!(number));
        }
        assert_eq!(a.get("/v1/status").await["name"], "a");
        hanging.push((asker, release));
    }
    // Who asked goes away; what was asked for is still being read.
    for (asker, _) in &hanging {
        asker.abort();
    }
    assert_eq!(a.api.reads.available_permits(), 0);
    drop(hanging);
    within("turns for all", async || a.api.reads.available_permits() == READS_MAX).await;
    assert_eq!(a.get("/v1/devices").await[0]["name"], "a");
    a.stop().await;
}

/// Values of which a log of one epoch takes few.
fn large(turn: usize) -> Value {
    Value::Text(turn.to_string().repeat(VALUE_BYTES_MAX / turn.to_string().len()))
}

async fn get(client: &mut Client, resource: &str) -> Json {
    client.get(resource).await.unwrap_or_else(|error| panic!("{resource}: {error}"))
}

/// Asks for all that is read of a document, until told to stop; how often.
async fn ask(mut client: Client, document: String, stop: watch::Receiver<bool>) -> usize {
    let query = format!("document={document}");
    let mut asked = 0;
    while !*stop.borrow() {
        asked += 1;
        let view = get(&mut client, &format!("/v1/document?{query}")).await;
        assert_eq!(view["heads"].as_array().unwrap().len(), 1, "{}", view["heads"]);
        assert_eq!(view["values"]["power.note"]["author"], "a");
        let log = get(&mut client, &format!("/v1/document/log?{query}")).await;
        assert!(log[0]["seq"].as_u64().is_some(), "{log}");
        let report = get(&mut client, &format!("/v1/document/verify?{query}")).await;
        assert!(report["whole"] == true && report["logs"][0]["damage"].is_null(), "{report}");
        let bytes = client.get_bytes(&format!("/v1/document/export?{query}")).await.unwrap();
        let exported = automerge::Automerge::load(&bytes).unwrap();
        assert!(exported.get(automerge::ROOT, "power.note").unwrap().is_some());
        let devices = get(&mut client, "/v1/devices").await;
        assert_eq!(devices[0]["age_s"], json!(0), "{devices}");
        let documents = get(&mut client, "/v1/documents").await;
        let rows = documents.as_array().unwrap();
        assert!(rows.iter().all(|row| row["heads"].as_array().unwrap().len() == 1), "{documents}");
    }
    asked
}

/// Epochs take the place of each other while they are read: nothing looks damaged, empty or gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_document_is_read_whole_while_its_log_is_replaced() {
    const EPOCHS: u64 = 12;
    let fleet = Fleet::new();
    let a = fleet.found("a", JumpingClock::at(1_790_000_000_000)).await;
    a.write(Kind::Environment, "power.note", large(0)).await;
    let (stop, stops) = watch::channel(false);
    let document = a.document(Kind::Environment);
    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(tokio::spawn(ask(a.client().await, document.to_string(), stops.clone())));
    }
    let mut epoch = 1;
    for turn in 1.. {
        a.write(Kind::Environment, "power.note", large(turn)).await;
        let named = document.clone();
        let look = move |node: &crate::agent::Node| {
            let replica = node.engine.replica();
            replica
                .logs()
                .of_document(&named)
                .iter()
                .map(|log| replica.logs().get(log).unwrap().name().epoch)
                .max()
                .unwrap_or(0)
        };
        epoch = a.agent.look(look).await.unwrap();
        if epoch > EPOCHS || readers.iter().any(tokio::task::JoinHandle::is_finished) {
            break;
        }
    }
    stop.send(true).unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    assert!(epoch > EPOCHS, "the document has come to epoch {epoch}");
    a.stop().await;
}
