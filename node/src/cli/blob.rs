//! `blob`: files by their hash.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Subcommand;
use futures::Stream;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use serde_json::{Value, json as object};
use tokio::io::AsyncReadExt;

use super::{Common, Failure, Outcome, code};
use crate::blobs::hash_of;
use crate::client::{Client, encode};
use crate::keys::quoted;
use crate::output::{Format, bytes_text, json, line, note, print, scalar, table};

/// What is read of a file at once, bytes.
const READ_BYTES: usize = 256 * 1024;

/// `blob`
#[derive(Subcommand)]
pub(crate) enum BlobCommand {
    /// Put a file into the node; prints its BLAKE3 hash
    Put {
        /// The file; - for standard input
        file: PathBuf,
    },
    /// Fetch a blob from whoever has it; what came stays when this is interrupted, and the same command goes on
    Get {
        /// Its hash, or the first digits of it
        blob: String,
        /// Write it to this file; - for standard output [default: it is only kept in the node]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// A device that has it but does not say so
        #[arg(long, value_name = "DEVICE")]
        from: Option<String>,
    },
    /// List the blobs of the fleet
    Ls,
    /// One blob: its size, how much of it is here, who has it
    Stat {
        /// Its hash, or the first digits of it
        blob: String,
    },
    /// Remove a blob from this device; others keep theirs
    Rm {
        /// Its hash, or the first digits of it
        blob: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Pause what is being fetched
    Pause {
        /// Its hash, or the first digits of it
        blob: String,
    },
    /// Let what is paused go on
    Resume {
        /// Its hash, or the first digits of it
        blob: String,
    },
}

/// Runs a `blob` verb.
pub(crate) async fn run(common: &Common, command: BlobCommand) -> Outcome {
    match command {
        BlobCommand::Put { file } => put(common, &file).await,
        BlobCommand::Get { blob, to, from } => get(common, &blob, to.as_deref(), from.as_deref()).await,
        BlobCommand::Ls => list(common).await,
        BlobCommand::Stat { blob } => stat(common, &blob).await,
        BlobCommand::Rm { blob, yes } => remove(common, &blob, yes).await,
        BlobCommand::Pause { blob } => pause(common, &blob, true).await,
        BlobCommand::Resume { blob } => pause(common, &blob, false).await,
    }
}

fn of_file(path: &Path, what: &str, error: impl ToString) -> Failure {
    Failure::new(code::REFUSED, what).cause(error).hint(format!("ls -l {}", quoted(path)))
}

async fn put(common: &Common, path: &Path) -> Outcome {
    let mut client = common.connect().await?;
    let unreadable = |error| of_file(path, "the file cannot be read", error);
    let answer = if path == Path::new("-") {
        let input = rustix::stdio::stdin().try_clone_to_owned().map_err(unreadable)?;
        client.put("/v1/blobs", bytes_of(tokio::fs::File::from_std(input.into()))).await?
    } else {
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        if file.metadata().await.map_err(unreadable)?.is_dir() {
            return Err(of_file(path, "a folder is no blob", "put the files of it, or an archive"));
        }
        client.put("/v1/blobs", bytes_of(file)).await?
    };
    match common.format() {
        Format::Table => line(&scalar(&answer["blob"])),
        format => print(&json(&answer, format)),
    }
    Ok(())
}

fn bytes_of(from: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures::stream::try_unfold(from, |mut from| async move {
        let mut bytes = Vec::with_capacity(READ_BYTES);
        let count = from.read_buf(&mut bytes).await?;
        Ok((count > 0).then(|| (Bytes::from(bytes), from)))
    })
}

async fn get(common: &Common, word: &str, to: Option<&Path>, from: Option<&str>) -> Outcome {
    let mut client = common.connect().await?;
    let from = from.map(|from| format!("?from={}", encode(from))).unwrap_or_default();
    let mut bar = Bar::new();
    let mut last = Value::Null;
    client
        .follow(&format!("/v1/blobs/{}/fetch{from}", encode(word)), |event| {
            bar.show(&event);
            let is_over = matches!(event["state"].as_str(), Some("done" | "stopped"));
            last = event;
            !is_over
        })
        .await?;
    bar.end();
    match last["state"].as_str() {
        Some("done") => {}
        Some("stopped") => return Err(stopped(&last)),
        _ => {
            let failure = Failure::new(code::UNREACHABLE, "the node ended before the blob was here");
            return Err(failure.hint(format!("fleetsync blob get {word}  # goes on with what is here")));
        }
    }
    let blob = scalar(&last["blob"]);
    if let Some(path) = to {
        // The events have taken the connection.
        write(&mut common.connect().await?, &blob, path).await?;
    }
    match (common.format(), to) {
        (_, Some(path)) if path == Path::new("-") => {}
        (Format::Table, _) => line(&blob),
        (format, _) => print(&json(&last, format)),
    }
    Ok(())
}

fn stopped(event: &Value) -> Failure {
    let (code, error) = match event["status"].as_u64() {
        Some(404) => (code::NOT_FOUND, "not found"),
        Some(504) => (code::NEGATIVE, "the blob does not come"),
        _ => (code::REFUSED, "refused"),
    };
    Failure::new(code, error).cause(scalar(&event["why"])).hint("fleetsync blob ls")
}

/// Writes a blob to a file, so that there is all of it or nothing, and checks it.
async fn write(client: &mut Client, blob: &str, path: &Path) -> Outcome {
    let unwritten = |error: io::Error| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let hint = format!("ls -ld {}", quoted(folder));
        Failure::new(code::REFUSED, "the file was not written").cause(error).hint(hint)
    };
    let mut body = client.open(&format!("/v1/blobs/{blob}/content")).await?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = match path == Path::new("-") {
        true => None,
        false => Some(tempfile::NamedTempFile::new_in(folder).map_err(unwritten)?),
    };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::new(code::UNREACHABLE, "the connection to the node broke").cause(error).hint("fleetsync status")
        })?;
        let Some(bytes) = frame.data_ref() else { continue };
        match &mut file {
            Some(file) => file.write_all(bytes).map_err(unwritten)?,
            None => io::stdout().lock().write_all(bytes).map_err(unwritten)?,
        }
    }
    let Some(file) = file else { return Ok(()) };
    let written = std::fs::File::open(file.path()).and_then(hash_of).map_err(unwritten)?;
    if written.to_string() != blob {
        let cause = format!("what the node gave has the hash {written}: its disk has spoilt the blob");
        return Err(Failure::new(code::REFUSED, "the blob is damaged").cause(cause).hint("dmesg"));
    }
    file.as_file().sync_all().map_err(unwritten)?;
    file.persist(path).map(drop).map_err(|error| unwritten(error.error))
}

async fn list(common: &Common) -> Outcome {
    let blobs = common.connect().await?.get("/v1/blobs").await?;
    if common.format() != Format::Table {
        print(&json(&blobs, common.format()));
        return Ok(());
    }
    let row = |blob: &Value| {
        let holders: Vec<String> = names(&blob["holders"], "name");
        let id = scalar(&blob["blob"]);
        vec![id.chars().take(16).collect(), size_of(&blob["bytes"]), here(blob), holders.join(", ")]
    };
    let rows: Vec<_> = blobs.as_array().into_iter().flatten().map(row).collect();
    print(&table(&["BLOB", "SIZE", "HERE", "WHO HAS IT"], &rows));
    Ok(())
}

async fn stat(common: &Common, word: &str) -> Outcome {
    let blob = common.connect().await?.get(&format!("/v1/blobs/{}", encode(word))).await?;
    if common.format() != Format::Table {
        print(&json(&blob, common.format()));
        return Ok(());
    }
    let rows = [
        ("blob", scalar(&blob["blob"])),
        ("size", format!("{}, {} bytes", size_of(&blob["bytes"]), scalar(&blob["bytes"]))),
        ("here", here(&blob)),
        ("who has it", names(&blob["holders"], "name").join(", ")),
    ];
    rows.iter().for_each(|(name, value)| line(&format!("{name:<12}{value}")));
    Ok(())
}

async fn remove(common: &Common, word: &str, is_sure: bool) -> Outcome {
    let mut client = common.connect().await?;
    let resource = format!("/v1/blobs/{}", encode(word));
    let blob = client.get(&resource).await?;
    let id = scalar(&blob["blob"]);
    if !is_sure && !confirm(&format!("remove {id}, {}, from this device?", size_of(&blob["bytes"])))? {
        return Err(Failure::new(code::NEGATIVE, "nothing was removed").hint(format!("fleetsync blob rm {word} --yes")));
    }
    client.delete(&resource).await?;
    note(&format!("{id} is removed from this device"));
    Ok(())
}

/// Asks on the terminal; where there is none the answer has to be given beforehand.
fn confirm(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let failure = Failure::new(code::USAGE, "this removes something, and there is no terminal to ask on");
        return Err(failure.hint("add --yes"));
    }
    note(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(code::USAGE, "no answer").cause(error).hint("add --yes"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn pause(common: &Common, word: &str, is_paused: bool) -> Outcome {
    let resource = format!("/v1/blobs/{}/pause", encode(word));
    let answer = common.connect().await?.post(&resource, &object!({ "paused": is_paused })).await?;
    note(&format!("{} {}", scalar(&answer["blob"]), if is_paused { "pauses" } else { "goes on" }));
    Ok(())
}

fn names(list: &Value, field: &str) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|item| scalar(&item[field])).collect()
}

/// How much of a blob is on this device.
fn here(blob: &Value) -> String {
    match (blob["here"].as_str(), blob["here_bytes"].as_u64(), blob["bytes"].as_u64()) {
        (Some(word @ ("fetching" | "paused")), Some(came), Some(all)) => format!("{word}, {} %", percent(came, all)),
        (Some("part"), ..) => "a part".to_owned(),
        (word, ..) => word.unwrap_or("-").to_owned(),
    }
}

fn percent(part: u64, all: u64) -> u64 {
    (u128::from(part) * 100).checked_div(u128::from(all)).unwrap_or(100) as u64
}

fn size_of(bytes: &Value) -> String {
    bytes.as_u64().map_or("-".to_owned(), bytes_text)
}

/// Progress on a terminal; nothing where stderr is none.
struct Bar {
    is_terminal: bool,
    start: Instant,
    is_shown: bool,
}

impl Bar {
    fn new() -> Bar {
        Bar { is_terminal: io::stderr().is_terminal(), start: Instant::now(), is_shown: false }
    }

    fn show(&mut self, event: &Value) {
        if self.is_terminal {
            // Where stderr is closed nobody wants to know.
            let _ =
                write!(io::stderr().lock(), "\r\u{1b}[K{}", progress_text(event, self.start.elapsed().as_secs_f64()));
            self.is_shown = true;
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            // Where stderr is closed nobody wants to know.
            let _ = writeln!(io::stderr().lock());
        }
    }
}

/// How far a fetch is, after so many seconds.
fn progress_text(event: &Value, seconds: f64) -> String {
    let state = event["state"].as_str().unwrap_or("-");
    let (Some(all), Some(here)) = (event["bytes"].as_u64(), event["here_bytes"].as_u64()) else {
        return state.to_owned();
    };
    let rate = event["came_bytes"].as_u64().unwrap_or(0) as f64 / seconds.max(0.001);
    let over = names(&event["ways"], "hop").join(", ");
    let over = if over.is_empty() { String::new() } else { format!("  over {over}") };
    let (percent, here, all) = (percent(here, all), bytes_text(here), bytes_text(all));
    format!("{percent:>3} %  {here} of {all}  {}/s  {state}{over}", bytes_text(rate as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_how_much_how_fast_and_over_whom() {
        let event = object!({
            "state": "fetching", "bytes": 1_073_741_824u64, "here_bytes": 268_435_456u64, "came_bytes": 25_000_000u64,
            "ways": [{ "hop": "lab-2", "holder": "lab-3" }, { "hop": "lab-4\u{1b}[2J", "holder": "lab-3" }],
        });
        let text = progress_text(&event, 2.0);
        assert_eq!(text, r" 25 %  268.4 MB of 1.1 GB  12.5 MB/s  fetching  over lab-2, lab-4\u{1b}[2J");
        assert_eq!(progress_text(&object!({ "state": "seeking" }), 0.0), "seeking");
        let empty = object!({ "state": "done", "bytes": 0, "here_bytes": 0 });
        assert_eq!(progress_text(&empty, 0.0), "100 %  0 B of 0 B  0 B/s  done");
    }
}
