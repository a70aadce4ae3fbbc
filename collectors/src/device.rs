//! The `device` document: what this machine is.
//!
//! Sources: Documentation/ABI/testing/sysfs-firmware-dmi-entries and `sys/class/dmi/id`, the device tree's root node
//! (Devicetree Specification 2.3.1), os-release(5), machine-id(5), proc(5), Documentation/ABI/stable/sysfs-block,
//! Documentation/ABI/testing/sysfs-class-net. What identifies a machine is hashed with the fleet id as the key.

use crdt::schema::{Kind, Value};

use crate::bounds;
use crate::probe::{Probe, base_name, segment};

/// Disks that are described.
pub const DISKS_MAX: usize = 64;
/// Network interfaces that are described.
pub const INTERFACES_MAX: usize = 32;
/// Bytes of a sector in `/sys/block/*/size`, whatever the disk says.
const SECTOR_BYTES: u64 = 512;
/// Hardware types of interfaces (`include/uapi/linux/if_arp.h`).
const ARPHRD_ETHER: i64 = 1;
const ARPHRD_CAN: i64 = 280;
const ARPHRD_NONE: i64 = 65_534;

/// Puts a fact.
fn fact(probe: &mut Probe<'_>, path: &str, value: Value) {
    probe.put(Kind::Device, path, value);
}

/// What the firmware of a PC says.
pub(crate) fn read_dmi(probe: &mut Probe<'_>, folder: &str) {
    let lines = [
        ("hardware.vendor", "sys_vendor"),
        ("hardware.product", "product_name"),
        ("hardware.product_version", "product_version"),
        ("hardware.board_vendor", "board_vendor"),
        ("hardware.board", "board_name"),
        ("hardware.bios_version", "bios_version"),
        ("hardware.bios_date", "bios_date"),
    ];
    for (path, file) in lines {
        probe.put_line(Kind::Device, path, &format!("{folder}/{file}"));
    }
    // Only root may read these.
    probe.put_hash(Kind::Device, "hardware.serial_hash", &format!("{folder}/product_serial"));
    probe.put_hash(Kind::Device, "hardware.uuid_hash", &format!("{folder}/product_uuid"));
}

/// What the device tree of a board says.
pub(crate) fn read_device_tree(probe: &mut Probe<'_>, folder: &str) {
    probe.put_line(Kind::Device, "hardware.model", &format!("{folder}/model"));
    let file = format!("{folder}/compatible");
    if let Some(text) = probe.text(&file) {
        // A list of strings, each ended by NUL, the most specific first.
        let list = text.split('\0').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        if let Some(list) = probe.clean(&file, &list) {
            fact(probe, "hardware.compatible", Value::Text(list));
        }
    }
    probe.put_hash(Kind::Device, "hardware.serial_hash", &format!("{folder}/serial-number"));
}

/// The operating system: os-release(5).
pub(crate) fn read_os_release(probe: &mut Probe<'_>, file: &str) {
    let Some((file, text)) =
        [file, "usr/lib/os-release"].into_iter().find_map(|file| probe.text(file).map(|text| (file, text)))
    else {
        return;
    };
    let keys = [
        ("ID", "os.id"),
        ("VERSION_ID", "os.version"),
        ("VERSION_CODENAME", "os.codename"),
        ("PRETTY_NAME", "os.name"),
        ("BUILD_ID", "os.build"),
    ];
    let mut is_known = false;
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let Some((_, path)) = keys.iter().find(|(name, _)| *name == key) else { continue };
        if let Some(value) = probe.clean(file, value.trim().trim_matches(['"', '\''])) {
            fact(probe, path, Value::Text(value));
            is_known = true;
        }
    }
    if !is_known {
        probe.implausible(file, "names no operating system");
    }
}

/// The kernel, the architecture, and this boot.
pub(crate) fn read_kernel(probe: &mut Probe<'_>, folder: &str) {
    probe.put_line(Kind::Device, "kernel.release", &format!("{folder}/osrelease"));
    probe.put_hash(Kind::Device, "boot.id_hash", &format!("{folder}/random/boot_id"));
}

/// What `uname` says of the processor.
pub(crate) fn read_architecture(probe: &mut Probe<'_>, path: &str) {
    let architecture = probe.system().architecture();
    if let Some(name) = architecture.and_then(|name| probe.clean(path, &name)) {
        fact(probe, "cpu.architecture", Value::Text(name));
    }
}

/// The machine id: machine-id(5) asks to hash it with a key of the application.
pub(crate) fn read_machine_id(probe: &mut Probe<'_>, file: &str) {
    probe.put_hash(Kind::Device, "machine.id_hash", file);
}

/// Model and number of processors.
pub(crate) fn read_cpu(probe: &mut Probe<'_>, file: &str) {
    if let Some(text) = probe.text(file) {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))
                .map(|(_, v)| v.trim())
        };
        let arm = || Some(arm_model(field("CPU implementer")?, field("CPU part")?));
        // x86 and most others; RISC-V; POWER; MIPS; ARM, which gives numbers.
        let named = ["model name", "uarch", "cpu", "cpu model"].into_iter().find_map(field).map(str::to_owned);
        match named.or_else(arm) {
            Some(model) => {
                if let Some(model) = probe.clean(file, &model) {
                    fact(probe, "cpu.model", Value::Text(model));
                }
            }
            None => probe.implausible(file, "names no processor"),
        }
    }
    // Counted here and not in cpuinfo, which is longer than what is read of it on large machines.
    let online = "sys/devices/system/cpu/online";
    if let Some(text) = probe.text(online) {
        match count_ranges(&text) {
            Some(cores) => {
                fact(probe, "cpu.cores", Value::Uint(cores));
                probe.put(Kind::Resource, "cpu.cores", Value::Uint(cores));
            }
            None => probe.implausible(online, "not a list of processors"),
        }
    }
    let frequency = "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq";
    if let Some(khz) = probe.unsigned(frequency, &bounds::FREQUENCY_KHZ) {
        fact(probe, "cpu.frequency_max_hertz", Value::Uint(khz * 1000));
    }
}

/// The name of an ARM core, which `/proc/cpuinfo` gives as numbers (Arm's Main ID Register).
fn arm_model(implementer: &str, part: &str) -> String {
    let name = match (implementer, part) {
        ("0x41", "0xb76") => "ARM1176",
        ("0x41", "0xc07") => "Cortex-A7",
        ("0x41", "0xd03") => "Cortex-A53",
        ("0x41", "0xd04") => "Cortex-A35",
        ("0x41", "0xd05") => "Cortex-A55",
        ("0x41", "0xd07") => "Cortex-A57",
        ("0x41", "0xd08") => "Cortex-A72",
        ("0x41", "0xd0b") => "Cortex-A76",
        ("0x41", "0xd0c") => "Neoverse-N1",
        ("0x41", "0xd40") => "Neoverse-V1",
        ("0x41", "0xd42") => "Cortex-A78AE",
        _ => return format!("implementer {implementer} part {part}"),
    };
    name.to_owned()
}

/// Members of a list like `0-3,8`.
fn count_ranges(text: &str) -> Option<u64> {
    let mut count = 0_u64;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?)?.checked_add(1)?;
    }
    (1..=bounds::CORES_MAX).contains(&count).then_some(count)
}

/// Disks that are hardware: no loop, RAM or mapped devices.
pub(crate) fn list_disks(probe: &mut Probe<'_>, folder: &str) {
    probe.children(folder, DISKS_MAX, is_disk, read_disk);
}

/// Whether a block device is a disk by its name.
pub(crate) fn is_disk(name: &str) -> bool {
    !["loop", "ram", "zram", "dm-", "nbd", "fd"].iter().any(|prefix| name.starts_with(prefix))
}

/// One disk; a drive without a medium has no size and is left out.
fn read_disk(probe: &mut Probe<'_>, folder: &str) {
    let Some(sectors) = probe.unsigned(&format!("{folder}/size"), &bounds::SECTORS) else { return };
    probe.found();
    if sectors == 0 {
        return;
    }
    let key = format!("disk.{}", segment(base_name(folder)));
    let size = Value::Uint(sectors * SECTOR_BYTES);
    fact(probe, &format!("{key}.size_bytes"), size.clone());
    probe.put(Kind::Resource, format!("{key}.size_bytes"), size);
    // SCSI, NVMe and virtio say `model`, SD cards `name`.
    let model = ["device/model", "device/name"].into_iter().find_map(|file| probe.line(&format!("{folder}/{file}")));
    if let Some(model) = model {
        fact(probe, &format!("{key}.model"), Value::Text(model));
    }
    for (name, file) in [("rotational", "queue/rotational"), ("removable", "removable")] {
        if let Some(flag) = probe.number(&format!("{folder}/{file}"), &bounds::FLAG) {
            fact(probe, &format!("{key}.{name}"), Value::Bool(flag == 1));
        }
    }
}

/// Network interfaces, without the loopback and the many ends of containers' links.
pub(crate) fn list_interfaces(probe: &mut Probe<'_>, folder: &str) {
    probe.children(folder, INTERFACES_MAX, is_interface, read_interface);
}

/// Whether an interface is described, by its name.
pub(crate) fn is_interface(name: &str) -> bool {
    name != "lo" && name != "bonding_masters" && !name.starts_with("veth")
}

/// One interface.
fn read_interface(probe: &mut Probe<'_>, folder: &str) {
    let key = format!("interface.{}", segment(base_name(folder)));
    let Some(kind) = interface_kind(probe, folder) else { return };
    fact(probe, &format!("{key}.kind"), Value::Text(kind.to_owned()));
    if let Some(state) = probe.line(&format!("{folder}/operstate")) {
        // Drivers that do not keep the state say "unknown"; their carrier decides (RFC 2863, operstates.rst).
        let is_up = state == "up"
            || state == "unknown" && probe.text(&format!("{folder}/carrier")).is_some_and(|carrier| carrier == "1");
        fact(probe, &format!("{key}.up"), Value::Bool(is_up));
    }
    if let Some(speed) = interface_speed(probe, folder) {
        fact(probe, &format!("{key}.speed_megabits_per_s"), Value::Uint(speed));
    }
    if let Some(address) = stable_address(probe, folder) {
        let hash = probe.hash(&address);
        fact(probe, &format!("{key}.mac_hash"), Value::Text(hash));
    }
}

/// What sort of interface it is; none if the folder is none.
fn interface_kind(probe: &mut Probe<'_>, folder: &str) -> Option<&'static str> {
    let hardware = probe.text(&format!("{folder}/type"))?.parse().unwrap_or(ARPHRD_NONE);
    let uevent = probe.text(&format!("{folder}/uevent")).unwrap_or_default();
    let device_type = uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).unwrap_or_default();
    let has = |name: &str| probe.exists(&format!("{folder}/{name}"));
    Some(match (device_type, hardware) {
        ("wlan", _) => "wifi",
        _ if has("wireless") || has("phy80211") => "wifi",
        ("wwan", _) => "cellular",
        ("bridge", _) => "bridge",
        ("bond", _) => "bond",
        ("vlan", _) => "vlan",
        ("wireguard", _) => "wireguard",
        (_, ARPHRD_CAN) => "can",
        _ if has("tun_flags") => "tunnel",
        (_, ARPHRD_ETHER) if has("device") => "ethernet",
        _ => "virtual",
    })
}

/// Speed of the link, Mbit/s. An interface that is down refuses the read or says -1, which is no fault.
pub(crate) fn interface_speed(probe: &mut Probe<'_>, folder: &str) -> Option<u64> {
    let file = format!("{folder}/speed");
    let text = probe.quiet_text(&file)?;
    let speed = probe.parse(&file, &text, &bounds::SPEED_MEGABITS)?;
    u64::try_from(speed).ok().filter(|speed| *speed > 0)
}

/// The hardware address, if the device brings one that stays: not random, not all zero.
pub(crate) fn stable_address(probe: &mut Probe<'_>, folder: &str) -> Option<String> {
    // NET_ADDR_PERM is 0; 1 is random, 2 stolen from another device, 3 set by someone.
    let is_permanent = probe.text(&format!("{folder}/addr_assign_type")).is_none_or(|kind| kind == "0");
    let address = probe.line(&format!("{folder}/address"))?;
    let is_set = address.chars().any(|c| c.is_ascii_hexdigit() && c != '0');
    (is_permanent && is_set && probe.exists(&format!("{folder}/device"))).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        assert_eq!(count_ranges("0-3"), Some(4));
        assert_eq!(count_ranges("0"), Some(1));
        assert_eq!(count_ranges("0-1,4-7,9"), Some(7));
        for bad in ["", "3-0", "0-", "x", "0-99999999", "0-18446744073709551615,5"] {
            assert_eq!(count_ranges(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn arm_cores_have_names() {
        assert_eq!(arm_model("0x41", "0xd0b"), "Cortex-A76");
        assert_eq!(arm_model("0x61", "0x022"), "implementer 0x61 part 0x022");
    }

    #[test]
    fn what_is_no_hardware_is_left_out() {
        assert!(is_disk("nvme0n1") && is_disk("sda") && is_disk("mmcblk0") && is_disk("md0"));
        assert!(!is_disk("loop3") && !is_disk("zram0") && !is_disk("dm-0"));
        assert!(is_interface("eth0") && !is_interface("lo") && !is_interface("veth12ab"));
    }
}
