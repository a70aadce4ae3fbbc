//! The machine's fingerprint: by it a copied image or a swapped board is noticed (PROTOCOL 1 and 2).

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::device::{INTERFACES_MAX, is_interface, stable_address};
use crate::probe::{Origin, Probe};
use crate::source::COLLECT_MS_MAX;

type ReadPart = fn(&mut Probe<'_>) -> Option<String>;

/// What a fingerprint is made of, each with the tag that its hash starts with.
const PARTS: [(&str, ReadPart); 3] = [
    ("fleetsync fingerprint 1 machine-id\0", machine_id),
    ("fleetsync fingerprint 1 board\0", board),
    ("fleetsync fingerprint 1 mac\0", address),
];

/// Three hashes: of the machine id, of the board's serial number, of the first hardware address that stays. Each is
/// BLAKE3 keyed with the fleet id over a tag and the lowercase text; over the tag alone where the machine has none,
/// where it may not be read (the DMI serial needs root), or where it gives no answer within [`COLLECT_MS_MAX`].
pub(crate) fn fingerprint(origin: &Origin) -> [[u8; 32]; 3] {
    let parts = PARTS.map(|(tag, read)| {
        let (sender, receiver) = channel();
        let origin = origin.clone();
        // Never joined: a file that hangs keeps its thread, and the part counts as absent.
        let started = thread::Builder::new().name("fingerprint".to_owned()).spawn(move || {
            let text = read(&mut Probe::new(&origin));
            // No one listens any more once the deadline is over.
            let _ = sender.send(text);
        });
        (tag, started.is_ok().then_some(receiver))
    });
    parts.map(|(tag, receiver)| {
        let deadline = Duration::from_millis(COLLECT_MS_MAX);
        let text = receiver.and_then(|receiver| receiver.recv_timeout(deadline).ok()?);
        let mut hasher = blake3::Hasher::new_keyed(&origin.fleet.0);
        hasher.update(tag.as_bytes()).update(text.unwrap_or_default().to_lowercase().as_bytes());
        *hasher.finalize().as_bytes()
    })
}

/// machine-id(5): made when the system is installed.
fn machine_id(probe: &mut Probe<'_>) -> Option<String> {
    probe.line("etc/machine-id")
}

/// What is burnt into the board.
fn board(probe: &mut Probe<'_>) -> Option<String> {
    let files = [
        "sys/class/dmi/id/product_uuid",
        "sys/class/dmi/id/product_serial",
        "sys/class/dmi/id/board_serial",
        "proc/device-tree/serial-number",
    ];
    files.into_iter().find_map(|file| probe.line(file))
}

/// The address of the first interface, by name, that has one of its own. Its name is not part of it: names change.
fn address(probe: &mut Probe<'_>) -> Option<String> {
    let names = probe.list("sys/class/net", INTERFACES_MAX, is_interface);
    names.into_iter().find_map(|name| {
        let folder = format!("sys/class/net/{name}");
        // A plugged adapter comes and goes; what is removable is no part of the machine.
        let is_removable =
            probe.quiet_text(&format!("{folder}/device/removable")).is_some_and(|text| text == "removable");
        if is_removable { None } else { stable_address(probe, &folder) }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use crdt::id::FleetId;

    use super::*;
    use crate::system::LiveSystem;
    use crate::tree::Tree;

    fn origin(root: &Path, fleet: u8) -> Origin {
        Origin { tree: Arc::new(Tree::at(root)), system: Arc::new(LiveSystem), fleet: FleetId([fleet; 32]) }
    }

    fn write(root: &Path, path: &str, text: &str) {
        let file = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn each_part_stands_for_itself() {
        let root = tempfile::tempdir().unwrap();
        let empty = fingerprint(&origin(root.path(), 1));
        assert_ne!(empty[0], empty[1], "the tag tells parts apart");
        write(root.path(), "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        let with_id = fingerprint(&origin(root.path(), 1));
        assert_ne!(with_id[0], empty[0]);
        assert_eq!(with_id[1..], empty[1..]);
        write(root.path(), "proc/device-tree/serial-number", "10000000abcdef01\0");
        write(root.path(), "sys/class/net/eth0/address", "d8:3a:dd:00:00:01\n");
        write(root.path(), "sys/class/net/eth0/device/uevent", "");
        let whole = fingerprint(&origin(root.path(), 1));
        assert!(whole[0] == with_id[0] && whole[1] != empty[1] && whole[2] != empty[2]);
        assert_eq!(whole, fingerprint(&origin(root.path(), 1)), "the same machine");
        let elsewhere = fingerprint(&origin(root.path(), 2));
        assert!((0..3).all(|part| whole[part] != elsewhere[part]), "another fleet learns nothing");
    }

    #[test]
    fn addresses_that_do_not_stay_do_not_count() {
        let root = tempfile::tempdir().unwrap();
        let empty = fingerprint(&origin(root.path(), 1));
        write(root.path(), "sys/class/net/eth0/address", "d8:3a:dd:00:00:01\n");
        assert_eq!(fingerprint(&origin(root.path(), 1)), empty, "no device behind it");
        write(root.path(), "sys/class/net/eth0/device/uevent", "");
        write(root.path(), "sys/class/net/eth0/addr_assign_type", "1\n");
        assert_eq!(fingerprint(&origin(root.path(), 1)), empty, "random");
        write(root.path(), "sys/class/net/eth0/addr_assign_type", "0\n");
        assert_ne!(fingerprint(&origin(root.path(), 1)), empty);
    }
}
