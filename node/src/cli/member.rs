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
    /// List members
    Ls,
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
                not_after_ms: wall_ms() + hours.saturating_mul(3_600_000),
            };
            invite(common, invitation).await
        }
        MemberCommand::Ls => list(common).await,
    }
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
    let members = client.get("/v1/members").await?;
    if common.format() != Format::Table {
        print(&json(&members, common.format()));
        return Ok(());
    }
    let row = |member: &Value| {
        let present = if member["present"] == Value::Bool(true) { "present" } else { "away" };
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
