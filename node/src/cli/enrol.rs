//! `init` and `join`.

use std::collections::BTreeMap;

use clap::Args;
use crdt::id::FleetId;
use crdt::join::JoinRefusal;
use crdt::statement::check_word;
use crdt::ticket::Address;
use ed25519_dalek::SigningKey;

use super::{Common, Failure, Outcome, code, ticket};
use crate::agent::OFFLINE;
use crate::clock::SystemClock;
use crate::folder::{Folder, FolderError, random, read_node};
use crate::identity::{EnrolError, FirstDevice, ask_to_join, found, genesis};
use crate::keys::{KeyKind, Keys, Passphrase};
use crate::output::{line, note};

/// `init`
#[derive(Args)]
pub(crate) struct InitArgs {
    /// The device's name
    #[arg(long)]
    name: String,
    /// The device's zone
    #[arg(long, default_value = "default")]
    zone: String,
    /// A label of the device, more than once for more
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Store the root's and the operator's key without a passphrase
    #[arg(long, conflicts_with = "passphrase_file")]
    no_passphrase: bool,
}

/// `join`
#[derive(Args)]
pub(crate) struct JoinArgs {
    /// What `fleetsync member invite` printed [env: FLEETSYNC_TICKET, or FLEETSYNC_TICKET_FILE, a file that is waited for]
    ticket: Option<String>,
    /// Ask a member without a ticket, and wait for an operator's `fleetsync member approve`
    #[arg(long, value_name = "KEY@ADDRESS", conflicts_with = "ticket", requires_all = ["fleet", "name"])]
    ask: Option<String>,
    /// The fleet to ask for (`fleetsync status` on the member)
    #[arg(long, value_name = "ID")]
    fleet: Option<FleetId>,
    /// The name to ask with
    #[arg(long)]
    name: Option<String>,
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Failure {
        let hint = error.hint();
        Failure::new(code::REFUSED, "the data folder cannot be used").cause(error).hint(hint)
    }
}

impl From<EnrolError> for Failure {
    fn from(error: EnrolError) -> Failure {
        let hint = match &error {
            EnrolError::Folder(error) => error.hint(),
            EnrolError::Store(error) => return error.clone().into(),
            EnrolError::Unreachable(_) => {
                "fleetsync status  # on the member: whether it runs, and where it listens".to_owned()
            }
            EnrolError::Limited => "sleep 60; fleetsync join TICKET".to_owned(),
            EnrolError::Refused(JoinRefusal::Busy(reason)) if reason == OFFLINE => {
                "fleetsync node online  # on that member".to_owned()
            }
            EnrolError::Refused(JoinRefusal::Busy(_)) => "fleetsync status  # on that member".to_owned(),
            EnrolError::NoAddress | EnrolError::Refused(_) | EnrolError::Chain(_) => {
                "fleetsync member invite --name NAME  # on a member, for a new ticket".to_owned()
            }
            EnrolError::Write(_) => "df -h".to_owned(),
            EnrolError::Mesh(_) => "ip address".to_owned(),
        };
        Failure::new(code::REFUSED, "this device did not become a member").cause(error).hint(hint)
    }
}

/// `KEY=VALUE` words as a map.
pub(crate) fn labels_of(words: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    for word in words {
        let malformed =
            || Failure::new(code::USAGE, format!("{word:?} is no label")).hint("fleetsync device label DEVICE rack=b2");
        let (key, value) = word.split_once('=').ok_or_else(malformed)?;
        for part in [key, value] {
            check_word(part).map_err(|error| malformed().cause(error))?;
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

/// Checks a name or a zone.
pub(crate) fn checked(word: &str, what: &str) -> Result<String, Failure> {
    check_word(word).map_err(|error| {
        let hint = match what {
            "zone" => "fleetsync device move DEVICE --zone hall-2",
            "label" => "fleetsync device label DEVICE rack=b2",
            _ => "fleetsync device rename DEVICE gate-1",
        };
        Failure::new(code::USAGE, format!("{word:?} is no {what}")).cause(error).hint(hint)
    })?;
    Ok(word.to_owned())
}

/// Founds a fleet.
pub(crate) fn init(common: &Common, args: InitArgs) -> Outcome {
    let device = FirstDevice {
        name: checked(&args.name, "name")?,
        zone: checked(&args.zone, "zone")?,
        labels: labels_of(&args.labels)?,
    };
    let passphrase = if args.no_passphrase { Passphrase::None } else { common.passphrase()?.once()? };
    let keys_dir = common.keys_dir()?;
    let folder = Folder::lock(&common.data_dir()?)?;
    folder.refuse_member()?;
    let root = SigningKey::from_bytes(&random());
    let operator = SigningKey::from_bytes(&random());
    let clock = SystemClock::new();
    let genesis = genesis(&clock, &root);
    let fleet = FleetId(genesis.id().0);
    Keys::create(&keys_dir, fleet, KeyKind::Root, &root, &passphrase)?;
    Keys::create(&keys_dir, fleet, KeyKind::Operator, &operator, &passphrase)?;
    let name = device.name.clone();
    found(&folder, &clock, genesis, &root, &operator, device)?;
    let keys = Keys::open(&keys_dir, fleet);
    note(&format!("founded fleet {fleet}, with this device as its first member {name}"));
    note(&format!("root key: {} (keep it off this device)", keys.key_path(KeyKind::Root).display()));
    note(&format!("operator key: {}", keys.key_path(KeyKind::Operator).display()));
    note(&format!("next: fleetsync run --data-dir {}", folder.path().display()));
    line(&fleet.to_string());
    Ok(())
}

/// `KEY@ADDRESS`, as `fleetsync status` of a member shows it.
fn member_of(word: &str) -> Result<Address, Failure> {
    let malformed = || {
        Failure::new(code::USAGE, format!("{word:?} is no member's address"))
            .hint("fleetsync status  # on the member; it shows KEY@/ip4/192.0.2.1/udp/4410/quic-v1")
    };
    let (peer, address) = word.split_once('@').ok_or_else(malformed)?;
    Ok(Address { peer: peer.parse().map_err(|error| malformed().cause(error))?, address: address.to_owned() })
}

/// Joins with a ticket, or asks for approval. Nothing is to do where the environment's ticket is for the first start only.
pub(crate) async fn join(common: &Common, args: &JoinArgs) -> Outcome {
    let path = common.data_dir()?;
    let (name, folder) = match (&args.ask, args.fleet, &args.name) {
        (Some(ask), Some(fleet), Some(name)) => {
            let (member, name) = (member_of(ask)?, checked(name, "name")?);
            let folder = Folder::lock(&path)?;
            folder.refuse_member()?;
            note(&format!("waiting for an operator: fleetsync member approve {name}"));
            let name = ask_to_join(&folder, &SystemClock::new(), fleet, &member, &name).await?;
            note(&format!("this device is now {name} of fleet {fleet}"));
            (name, folder)
        }
        _ => {
            let missing = || Failure::new(code::USAGE, "a ticket is missing").hint("fleetsync join --help");
            let source = ticket::source(args.ticket.as_ref()).ok_or_else(missing)?;
            if args.ticket.is_none()
                && let Ok(node) = read_node(&path)
            {
                note(&format!("this device is a member of fleet {} already", node.fleet));
                return Ok(());
            }
            let (folder, name) = ticket::enrol(&path, source, None).await?;
            (name, folder)
        }
    };
    note(&format!("next: fleetsync run --data-dir {}", folder.path().display()));
    line(&name);
    Ok(())
}
