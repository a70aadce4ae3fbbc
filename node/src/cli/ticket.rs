//! Where a device's ticket comes from, and the way of a device without a person into a fleet: it waits for a file with
//! its ticket, and for a member that takes it in.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crdt::join::JoinRefusal;
use crdt::ticket::Ticket;

use super::{Failure, code};
use crate::clock::SystemClock;
use crate::folder::{Folder, FolderError, NodeFile, read_node};
use crate::identity::{EnrolError, join};
use crate::keys::quoted;
use crate::output::note;
use crate::supervisor::Supervisor;

/// How often a file is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pauses between tries to join double from the first to the second. A member answers four requests a minute.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What the service manager is asked for at each look and try: more than a try with its pause takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where a ticket comes from.
pub(crate) enum Source {
    /// A person, or the environment.
    Given(String),
    /// A file, which may come later.
    File(PathBuf),
}

/// The ticket of the command line, else that of the environment.
pub(crate) fn source(given: Option<&String>) -> Option<Source> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let given = given.cloned().or_else(|| variable("FLEETSYNC_TICKET")).map(Source::Given);
    given.or_else(|| variable("FLEETSYNC_TICKET_FILE").map(|file| Source::File(PathBuf::from(file))))
}

/// The folder, and what it is a member of; where it is no member's the ticket makes it one. Until there is a ticket such a
/// folder is neither created nor changed.
pub(crate) async fn member(
    path: &Path,
    source: Option<Source>,
    supervisor: Option<&Supervisor>,
) -> Result<(Folder, NodeFile), Failure> {
    let folder = match (read_node(path), source) {
        (Err(FolderError::NotMember(_)), Some(source)) => enrol(path, source, supervisor).await?.0,
        (known, _) => {
            known?;
            Folder::lock(path)?
        }
    };
    let node = folder.node()?;
    Ok((folder, node))
}

/// Makes a folder a member's; returns the device's name. A person's ticket works or does not; one in a file is waited for.
pub(crate) async fn enrol(
    path: &Path,
    source: Source,
    supervisor: Option<&Supervisor>,
) -> Result<(Folder, String), Failure> {
    match source {
        Source::Given(text) => {
            let ticket = ticket_of(&text)?;
            let folder = Folder::lock(path)?;
            let name = join_with(&folder, &ticket).await?;
            Ok((folder, name))
        }
        Source::File(file) => enrol_from(path, &file, supervisor).await,
    }
}

fn ticket_of(text: &str) -> Result<Ticket, Failure> {
    text.trim().parse().map_err(|error| {
        Failure::new(code::USAGE, "this is no ticket")
            .cause(error)
            .hint("fleetsync member invite --name NAME  # on a member; the whole line that it prints is the ticket")
    })
}

async fn join_with(folder: &Folder, ticket: &Ticket) -> Result<String, EnrolError> {
    folder.refuse_member()?;
    let name = join(folder, &SystemClock::new(), ticket).await?;
    note(&format!("this device is now {name} of fleet {}", ticket.fleet));
    Ok(name)
}

/// Waits for the file, then joins with the ticket in it, again and again while no member can be asked. The file is read
/// anew each time, so that a better ticket may take its place.
async fn enrol_from(path: &Path, file: &Path, supervisor: Option<&Supervisor>) -> Result<(Folder, String), Failure> {
    let mut told = String::new();
    let mut tell = |line: String| {
        if let Some(supervisor) = supervisor {
            supervisor.extend_start(PATIENCE);
            supervisor.status(&line);
        }
        if told != line {
            note(&line);
            told = line;
        }
    };
    let mut pause = PAUSE_MIN;
    loop {
        let Some(text) = read(file)? else {
            tell(format!("waiting for a ticket in {}", file.display()));
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        let ticket = ticket_of(&text)?;
        let folder = Folder::lock(path)?;
        match join_with(&folder, &ticket).await {
            Ok(name) => return Ok((folder, name)),
            Err(error) if may_pass(&error) => {
                tell(format!("not a member yet, trying again: {error}"));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The file's text; `None` where it is not there yet, or not written yet.
fn read(file: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(code::USAGE, format!("the ticket in {} cannot be read", file.display()))
            .cause(error)
            .hint(format!("ls -l {}", quoted(file)))),
    }
}

/// Whether the same ticket may be taken later.
fn may_pass(error: &EnrolError) -> bool {
    matches!(error, EnrolError::Unreachable(_) | EnrolError::Limited | EnrolError::Refused(JoinRefusal::Busy(_)))
}
