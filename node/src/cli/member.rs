//! `member` and `key`: who belongs to the fleet, and with which keys a person acts.

use clap::Subcommand;
use crdt::statement::{Body, Invitation};
use crdt::ticket::{ADDRESSES_MAX, Address, SignedInvitation, Ticket};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json as object};

use super::enrol::{checked, labels_of};
use super::sign::{Operator, text};
use super::{Common, Failure, Outcome, code};
use crate::clock::wall_ms;
use crate::folder::random;
use crate::keys::{KeyKind, Keys};
use crate::output::{Format, json, line, note, print, scalar, table};

/// For how long an approval is taken, milliseconds.
const APPROVAL_MS: u64 = 3_600_000;

/// `member`
#[derive(Subcommand)]
pub(crate) enum MemberCommand {
    /// Make a ticket for one device; the ticket alone goes to stdout
    Invite {
        /// The device's name
        #[arg(long)]
        name: String,
        /// The device's zone
        #[arg(long, default_value = "default")]
        zone: String,
        /// A label of the device, more than once for more
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// For how many hours the ticket is taken
        #[arg(long, default_value_t = 24)]
        hours: u64,
    },
    /// List members, and devices that wait for approval
    Ls,
    /// Let a device in that asked without a ticket (fleetsync join --ask)
    Approve {
        /// The name that it asked with, or a unique prefix of its id
        device: String,
        /// Another name for it
        #[arg(long)]
        name: Option<String>,
        /// The device's zone
        #[arg(long, default_value = "default")]
        zone: String,
        /// A label of the device, more than once for more
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
}

/// `key`
#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// The public keys that this person holds, by fleet
    Show,
}

/// Runs a `member` verb.
pub(crate) async fn run(common: &Common, command: MemberCommand) -> Outcome {
    match command {
        MemberCommand::Invite { name, zone, labels, hours } => {
            let invitation = Invitation {
                key: crdt::id::Key([0; 32]),
                name: checked(&name, "name")?,
                zone: checked(&zone, "zone")?,
                labels: labels_of(&labels)?,
                not_after_ms: wall_ms().saturating_add(hours.saturating_mul(3_600_000)),
            };
            invite(common, invitation).await
        }
        MemberCommand::Ls => list(common).await,
        MemberCommand::Approve { device, name, zone, labels } => {
            let invitation = Invitation {
                key: crdt::id::Key([0; 32]),
                name: name.map(|name| checked(&name, "name")).transpose()?.unwrap_or_default(),
                zone: checked(&zone, "zone")?,
                labels: labels_of(&labels)?,
                not_after_ms: wall_ms() + APPROVAL_MS,
            };
            approve(common, &device, invitation).await
        }
    }
}

/// Certifies the one-time key of a device that asked; it finds the invitation when it asks again.
async fn approve(common: &Common, device: &str, mut invitation: Invitation) -> Outcome {
    let mut client = common.connect().await?;
    let wishes = client.get("/v1/wishes").await?;
    let is_meant = |wish: &&Value| {
        wish["name"] == Value::String(device.to_owned())
            || wish["device"].as_str().is_some_and(|id| id.starts_with(device))
    };
    let found: Vec<&Value> = wishes.as_array().into_iter().flatten().filter(is_meant).collect();
    let wish = match found.as_slice() {
        [wish] => *wish,
        [] => {
            return Err(Failure::new(code::NOT_FOUND, format!("no device {device:?} waits for approval at this node"))
                .hint("fleetsync member ls"));
        }
        several => {
            let ids: Vec<String> = several.iter().map(|wish| scalar(&wish["device"])).collect();
            let failure = Failure::new(code::USAGE, format!("{device:?} is ambiguous")).cause(ids.join(", "));
            return Err(failure.hint("fleetsync member ls -o json"));
        }
    };
    invitation.key = text(wish, "one_time")?
        .parse()
        .map_err(|error| Failure::new(code::REFUSED, "the node's answer has no key").cause(error))?;
    if invitation.name.is_empty() {
        invitation.name = checked(text(wish, "name")?, "name")?;
    }
    let operator = Operator::unlock(common, &mut client).await?;
    let name = invitation.name.clone();
    operator.state(&mut client, Body::Invitation(invitation)).await?;
    note(&format!("{name} ({}) is let in when it asks again, within 16 s", scalar(&wish["device"])));
    Ok(())
}

async fn invite(common: &Common, mut invitation: Invitation) -> Outcome {
    let mut client = common.connect().await?;
    let operator = Operator::unlock(common, &mut client).await?;
    let roster = client.get("/v1/roster").await?;
    let malformed = |what: &str| Failure::new(code::REFUSED, format!("the node's answer has no {what}"));
    let root = text(&roster, "root")?.parse().map_err(|_| malformed("root"))?;
    let mut addresses = Vec::new();
    for entry in roster["addresses"].as_array().into_iter().flatten().take(ADDRESSES_MAX) {
        let peer = text(entry, "peer")?.parse().map_err(|_| malformed("peer"))?;
        addresses.push(Address { peer, address: text(entry, "address")?.to_owned() });
    }
    if addresses.is_empty() {
        note("warning: this node listens nowhere yet, so the ticket names no address");
    }
    let one_time = SigningKey::from_bytes(&random());
    invitation.key = crate::identity::public(&one_time);
    let signed = operator.state(&mut client, Body::Invitation(invitation)).await?;
    let ticket = Ticket {
        fleet: operator.fleet,
        root,
        invitation: SignedInvitation(signed.parts()),
        secret: one_time.to_bytes(),
        addresses,
    };
    line(&ticket.to_string());
    Ok(())
}

async fn list(common: &Common) -> Outcome {
    let mut client = common.connect().await?;
    let mut members = client.get("/v1/members").await?;
    let wishes = client.get("/v1/wishes").await?;
    if let (Value::Array(members), Value::Array(wishes)) = (&mut members, wishes) {
        members.extend(wishes.into_iter().map(|mut wish| {
            wish["standing"] = Value::from("waits for approval");
            wish
        }));
    }
    if common.format() != Format::Table {
        print(&json(&members, common.format()));
        return Ok(());
    }
    let row = |member: &Value| {
        let present = match &member["present"] {
            Value::Bool(true) => "present",
            Value::Bool(false) => "away",
            _ => "-",
        };
        vec![
            scalar(&member["name"]),
            scalar(&member["standing"]),
            present.to_owned(),
            scalar(&member["invited_by"]),
            scalar(&member["device"]),
        ]
    };
    let rows: Vec<_> = members.as_array().into_iter().flatten().map(row).collect();
    print(&table(&["NAME", "STANDING", "PRESENCE", "INVITED BY", "DEVICE"], &rows));
    Ok(())
}

/// Runs a `key` verb.
pub(crate) async fn key(common: &Common, command: KeyCommand) -> Outcome {
    let KeyCommand::Show = command;
    let folder = common.keys_dir()?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for fleet in Keys::fleets(&folder)? {
        let keys = Keys::open(&folder, fleet);
        for kind in [KeyKind::Root, KeyKind::Operator] {
            let Some(public) = keys.public(kind)? else { continue };
            let path = keys.key_path(kind).display().to_string();
            rows.push(vec![fleet.short(), kind.name().to_owned(), public.to_string(), path.clone()]);
            values.push(object!({
                "fleet": fleet.to_string(), "kind": kind.name(), "key": public.to_string(), "path": path,
            }));
        }
    }
    match common.format() {
        Format::Table => print(&table(&["FLEET", "KIND", "PUBLIC KEY", "FILE"], &rows)),
        format => print(&json(&Value::Array(values), format)),
    }
    Ok(())
}
