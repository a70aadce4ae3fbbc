//! `doctor`: what the running node knows of what is wrong with it, and what the machine shows.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crdt::id::FleetId;
use rustix::fs::{Access, access};
use serde_json::{Value, json as object};

use super::{Common, Failure, Outcome, code, run};
use crate::agent::RESERVE_BYTES;
use crate::client::{Client, ClientError};
use crate::doctor::{self, Check, FolderState, Verdict};
use crate::folder::{NodeFile, read_node};
use crate::keys::{KeyKind, Keys, quoted};
use crate::output::{Format, escaped, json, print};

/// Runs `doctor`: exit 1 where something fails.
pub(crate) async fn run(common: &Common) -> Outcome {
    let folder = folder_of(common)?;
    let member = read_node(&folder).ok();
    let socket = common.socket()?;
    let start = format!("fleetsync run --data-dir {}", quoted(&folder));
    let told = told(&socket).await?;
    let uptime_s = told.as_ref().map(|(uptime_s, _)| *uptime_s);
    let mut checks = vec![doctor::node(uptime_s, &socket.display().to_string(), start)];
    checks.push(doctor::folder(&folder_state(&folder, member.is_some())));
    if let Ok(disk) = rustix::fs::statvfs(&folder) {
        checks.push(doctor::space(disk.f_bavail.saturating_mul(disk.f_frsize), RESERVE_BYTES));
    }
    if let Some(member) = &member {
        checks.push(root_key(common, member)?);
    }
    match (told, &member) {
        (Some((_, told)), _) => checks.extend(told),
        (None, Some(member)) => {
            checks.push(doctor::offline(folder.join("offline").exists()));
            checks.push(port(common, member)?);
        }
        (None, None) => {}
    }
    print(&match common.format() {
        Format::Table => described(&checks),
        format => json(&object!(checks), format),
    });
    let failed: Vec<&Check> = checks.iter().filter(|check| check.verdict == Verdict::Fail).collect();
    match failed.first() {
        None => Ok(()),
        Some(first) => {
            let names: Vec<&str> = failed.iter().map(|check| check.check.as_str()).collect();
            let hint = first.hint.clone().unwrap_or_else(|| "fleetsync status".to_owned());
            Err(Failure::new(code::NEGATIVE, format!("what fails: {}", names.join(", "))).hint(hint))
        }
    }
}

/// The data folder; where only the API is named, that of its socket.
fn folder_of(common: &Common) -> Result<PathBuf, Failure> {
    match (&common.data_dir, &common.api) {
        (None, Some(_)) => Ok(common.socket()?.parent().map_or_else(PathBuf::new, Path::to_owned)),
        _ => common.data_dir(),
    }
}

/// Since when the node runs, and what it knows; none where none runs.
async fn told(socket: &Path) -> Result<Option<(u64, Vec<Check>)>, Failure> {
    let mut client = match Client::connect(socket).await {
        Ok(client) => client,
        Err(ClientError::Unreachable { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let uptime_s = client.get("/v1/status").await?["uptime_s"].as_u64().unwrap_or(0);
    let mut told: Value = client.get("/v1/doctor").await?;
    let checks = serde_json::from_value(told["checks"].take()).map_err(|error| {
        Failure::new(code::REFUSED, "the node's answer is no list of checks").cause(error).hint("fleetsync --version")
    })?;
    Ok(Some((uptime_s, checks)))
}

fn folder_state(folder: &Path, is_member: bool) -> FolderState {
    let mode = |path: &Path| std::fs::metadata(path).map(|found| found.permissions().mode() & 0o7777).ok();
    FolderState {
        path: folder.to_owned(),
        is_member,
        mode: mode(folder).unwrap_or(0),
        key_mode: mode(&folder.join("device.key")),
        is_writable: access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
    }
}

fn root_key(common: &Common, member: &NodeFile) -> Result<Check, Failure> {
    let Ok(fleet) = member.fleet.parse::<FleetId>() else { return Ok(doctor::root_key(None)) };
    let path = Keys::open(&common.keys_dir()?, fleet).key_path(KeyKind::Root);
    Ok(doctor::root_key(path.exists().then_some(&path)))
}

/// The port that a node which does not run would listen on.
fn port(common: &Common, member: &NodeFile) -> Result<Check, Failure> {
    let (listen, is_fixed) = run::listen_on(&common.settings(&[])?, member)?;
    let mut is_free = true;
    for ip in listen.ips.iter().filter(|ip| ip.is_ipv4()) {
        is_free = is_free && run::is_free(*ip, listen.port)?;
    }
    Ok(doctor::port_of_a_stopped_node(listen.port, is_fixed, is_free))
}

/// A line a check, and another one for what helps.
fn described(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.check.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Check { check, verdict, found, hint } in checks {
        text.push_str(&format!("{:<7}  {check:width$}  {}\n", verdict.word(), escaped(found)));
        let helps = hint.as_ref().filter(|_| *verdict != Verdict::Ok);
        text.extend(helps.map(|hint| format!("{:9}{:width$}  hint: {}\n", "", "", escaped(hint))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_lines_with_hints_where_something_is_to_be_done() {
        let checks = [doctor::node(Some(5), "s", String::new()), doctor::offline(true)];
        let expected = [
            "ok       node            it runs, for 5 s now",
            "warn     offline switch  the node was told to stay offline: it talks to no peer",
            "                         hint: fleetsync node online",
            "",
        ];
        assert_eq!(described(&checks), expected.join("\n"));
    }
}
