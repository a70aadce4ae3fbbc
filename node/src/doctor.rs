//! What is wrong with a node, and what to do about it. Pure: findings come in, checks come out; the API finds what the running
//! node knows (`api/doctor`), the CLI what the machine shows (`cli/doctor`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::nat::{Mapping, mapping};
use crate::keys::quoted;

#[cfg(test)]
mod tests;

/// Most names that a finding lists.
const NAMES_MAX: usize = 8;
/// Clocks that differ by no more are as good as equal, milliseconds.
const CLOCK_NEAR_MS: u64 = 10_000;
/// A clock that is off by more misleads, milliseconds: tickets expire by it.
const CLOCK_FAR_MS: u64 = 600_000;
/// The least datagram that QUIC needs, with the headers of IPv6 and UDP (RFC 9000 14: 1,200 bytes of payload).
const MTU_MIN: u32 = 1_248;
/// Free space of which it is said that it is little, bytes.
const SPACE_LOW_BYTES: u64 = 1 << 30;

/// What comes of a check, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// It cannot be told from here.
    Unknown,
    /// It works, and could be better.
    Warn,
    /// It is wrong.
    Fail,
}

impl Verdict {
    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Unknown => "unknown",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

/// A check and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) check: String,
    pub(crate) verdict: Verdict,
    /// What was found, a sentence.
    pub(crate) found: String,
    /// A command that helps.
    pub(crate) hint: Option<String>,
}

impl Check {
    fn new(check: &str, verdict: Verdict, found: impl Into<String>) -> Check {
        Check { check: check.to_owned(), verdict, found: found.into(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Check {
        Check { hint: Some(hint.into()), ..self }
    }
}

/// Whether the node runs; `hint` starts it.
pub(crate) fn node(uptime_s: Option<u64>, socket: &str, hint: String) -> Check {
    match uptime_s {
        Some(seconds) => Check::new("node", Verdict::Ok, format!("it runs, for {} now", crate::output::age(seconds))),
        None => Check::new("node", Verdict::Fail, format!("no node answers at {socket}")).hint(hint),
    }
}

/// Whether the fleet takes this device for a member; `standing` is the word of the roster.
pub(crate) fn standing(standing: &str) -> Check {
    match standing {
        "member" => Check::new("membership", Verdict::Ok, "this device is a member"),
        other => Check::new("membership", Verdict::Fail, format!("this device is {other}: others do not count it"))
            .hint("fleetsync member ls"),
    }
}

/// Whether the node was told to talk to nobody.
pub(crate) fn offline(is_offline: bool) -> Check {
    match is_offline {
        false => Check::new("offline switch", Verdict::Ok, "it is off: the node looks for its peers"),
        true => Check::new("offline switch", Verdict::Warn, "the node was told to stay offline: it talks to no peer")
            .hint("fleetsync node online"),
    }
}

/// Who reaches the node.
pub(crate) struct Reachable<'a> {
    /// The multiaddresses on which it listens.
    pub(crate) listening: &'a BTreeSet<String>,
    /// Whether it is not meant to listen.
    pub(crate) dials_only: bool,
    /// Of the links that are up: the peer's address, and whether this node dialled.
    pub(crate) links: &'a [(String, bool)],
    /// The multiaddresses at which others were seen to reach it.
    pub(crate) reached: &'a [String],
    /// The peers over which those come that cannot dial it.
    pub(crate) relays: &'a [String],
}

/// Whether others get through to the node's ports.
pub(crate) fn ports(reachable: &Reachable<'_>) -> Check {
    let check = |verdict: Verdict, found: String| Check::new("ports", verdict, found);
    if reachable.dials_only {
        return check(Verdict::Ok, "it listens on no port, as it is told: it dials others".to_owned());
    }
    let [udp, tcp] = ["udp", "tcp"].map(|protocol| {
        let of_protocol = reachable.listening.iter().filter_map(|address| port(address, protocol));
        of_protocol.map(str::to_owned).collect::<BTreeSet<_>>()
    });
    let list = |ports: &BTreeSet<String>| ports.iter().cloned().collect::<Vec<_>>().join(", ");
    match (udp.is_empty(), tcp.is_empty()) {
        (true, true) => {
            return check(Verdict::Fail, "it listens on no port: nobody can dial it".to_owned())
                .hint("fleetsync node config  # listen and port");
        }
        (true, false) => {
            return check(Verdict::Warn, format!("it listens on TCP port {}, and on no UDP port", list(&tcp)))
                .hint("fleetsync node config  # listen and port");
        }
        (false, true) => {
            return check(Verdict::Warn, format!("it listens on UDP port {}, and on no TCP port", list(&udp)))
                .hint("fleetsync node config  # listen and port");
        }
        (false, false) => {}
    }
    let listens = format!("it listens on UDP port {} and TCP port {}", list(&udp), list(&tcp));
    let dialled_in = |protocol: &str| {
        let of_protocol = |address: &str| port(address, protocol).is_some();
        reachable.links.iter().filter(|(address, by_us)| !by_us && of_protocol(address)).count()
    };
    let hint = format!("ss -lntu  # and see that the firewall lets UDP {} and TCP {} in", list(&udp), list(&tcp));
    match (dialled_in("udp"), dialled_in("tcp")) {
        (0, 0) if !reachable.reached.is_empty() => {
            check(Verdict::Ok, format!("{listens}; others reach it at {}", names(reachable.reached)))
        }
        (0, 0) if !reachable.relays.is_empty() => {
            let found = format!(
                "{listens}; nobody dials it through the address translation or firewall between: links to it begin over {}",
                names(reachable.relays)
            );
            check(Verdict::Ok, found)
        }
        (0, 0) if reachable.links.is_empty() => {
            check(Verdict::Unknown, format!("{listens}; no link is up that would show whether others get through"))
                .hint(hint)
        }
        (0, 0) => check(
            Verdict::Unknown,
            format!("{listens}; this node dialled all its links, so whether others get through is not known"),
        )
        .hint(hint),
        (0, tcp) => {
            let found = format!("{listens}; {tcp} dialled in over TCP, nobody over UDP");
            check(Verdict::Warn, found).hint(hint)
        }
        (udp, _) => check(Verdict::Ok, format!("{listens}; {udp} of {} links were dialled in", reachable.links.len())),
    }
}

/// The port of a multiaddress, where it is of this protocol.
fn port<'a>(address: &'a str, protocol: &str) -> Option<&'a str> {
    let mut parts = address.split('/');
    parts.by_ref().find(|part| *part == protocol)?;
    parts.next()
}

/// Whether a port can be listened on by a node that does not run now.
pub(crate) fn port_of_a_stopped_node(port: u16, is_fixed: bool, is_free: bool) -> Check {
    match (is_free, is_fixed) {
        (true, _) => Check::new("ports", Verdict::Ok, format!("port {port} is free, UDP and TCP")),
        (false, false) => {
            Check::new("ports", Verdict::Ok, format!("port {port} is in use: the node picks a free one at its start"))
        }
        (false, true) => {
            Check::new("ports", Verdict::Fail, format!("port {port} is in use, and the settings ask for it"))
                .hint("fleetsync run --port 0  # for a free one")
        }
    }
}

/// Whether this machine's clock agrees with its peers'. Of each that answered, by how much its clock is ahead, milliseconds.
pub(crate) fn clock(ahead: &[(String, i64)]) -> Check {
    let check = |verdict: Verdict, found: String| Check::new("clock", verdict, found);
    let mut sorted: Vec<i64> = ahead.iter().map(|(_, millis)| *millis).collect();
    sorted.sort_unstable();
    // Of two in the middle, the one that is nearer to this clock.
    let middle = [sorted.len().saturating_sub(1) / 2, sorted.len() / 2];
    let median = middle.iter().filter_map(|at| sorted.get(*at).copied()).min_by_key(|millis| millis.unsigned_abs());
    let Some(median) = median else {
        return check(Verdict::Unknown, "no peer was there to compare it with".to_owned()).hint("timedatectl");
    };
    let side = if median > 0 { "behind" } else { "ahead of" };
    let off = span(median.unsigned_abs());
    match (median.unsigned_abs(), ahead) {
        (0..=CLOCK_NEAR_MS, _) => {
            let is_off = |millis: i64| millis.abs_diff(median) > CLOCK_NEAR_MS;
            let others: Vec<String> =
                ahead.iter().filter(|(_, millis)| is_off(*millis)).map(|(name, _)| name.clone()).collect();
            match others.is_empty() {
                true => check(Verdict::Ok, format!("it agrees with {} within {}", of_peers(ahead.len()), off)),
                false => check(Verdict::Warn, format!("it agrees with most peers, but not that of {}", names(&others)))
                    .hint("timedatectl  # there"),
            }
        }
        (_, [(one, _)]) => {
            check(Verdict::Warn, format!("it is {off} {side} that of {one}: one of both is wrong")).hint("timedatectl")
        }
        (0..=CLOCK_FAR_MS, _) => {
            check(Verdict::Warn, format!("it is {off} {side} its peers'")).hint("timedatectl set-ntp true")
        }
        _ => check(Verdict::Fail, format!("it is {off} {side} its peers': tickets and times are read wrong"))
            .hint("timedatectl set-ntp true"),
    }
}

fn of_peers(count: usize) -> String {
    if count == 1 { "that of 1 peer".to_owned() } else { format!("those of {count} peers") }
}

fn span(millis: u64) -> String {
    if millis < 1_000 { format!("{millis} ms") } else { crate::output::age(millis / 1_000) }
}

/// How large the datagrams are that links carry.
pub(crate) struct Datagrams<'a> {
    /// Links over QUIC.
    pub(crate) quic: usize,
    /// The peers that are linked over TCP though they say that they listen for QUIC.
    pub(crate) tcp_instead: &'a [String],
    /// The machine's network interfaces that are up, with their largest packet, bytes.
    pub(crate) interfaces: &'a BTreeMap<String, u32>,
}

/// Whether datagrams that QUIC needs get through. The largest one that a path carries is not known: libp2p does not tell.
pub(crate) fn mtu(datagrams: &Datagrams<'_>) -> Check {
    let check = |verdict: Verdict, found: String| Check::new("mtu", verdict, found);
    let all: Vec<String> = datagrams.interfaces.iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
    let interfaces = if all.is_empty() { String::new() } else { format!(" (interfaces: {})", names(&all)) };
    let small: Vec<String> =
        datagrams.interfaces.iter().filter(|(_, bytes)| **bytes < MTU_MIN).map(|(name, _)| name.clone()).collect();
    if !datagrams.tcp_instead.is_empty() {
        let peers = names(datagrams.tcp_instead);
        let found = format!(
            "links go over TCP though the peers listen on UDP too: {peers}; UDP is blocked on the way, \
             or datagrams of 1,200 bytes do not pass{interfaces}"
        );
        return check(Verdict::Warn, found).hint("ip link show  # and ping -M do -s 1220 ADDRESS");
    }
    match (datagrams.quic, small.is_empty()) {
        (_, false) => {
            check(Verdict::Warn, format!("too small for QUIC, which needs {MTU_MIN} bytes: {}", names(&small)))
                .hint(format!("ip link set dev {} mtu 1500", small[0]))
        }
        (0, true) => {
            check(Verdict::Unknown, format!("no link over QUIC is up that would show what passes{interfaces}"))
        }
        (count, true) => {
            let found = format!(
                "{count} QUIC links carry the datagrams of 1,200 bytes that QUIC begins with; \
                 more is not known{interfaces}"
            );
            check(Verdict::Ok, found)
        }
    }
}

/// What translates this node's address on the way. `own` are the machine's addresses; `seen` is where peers see it over QUIC:
/// those that it dialled, and those that reach it at an own address.
pub(crate) fn nat(own: &BTreeSet<IpAddr>, seen: &[SocketAddr]) -> Check {
    let (ipv4, ipv6): (Vec<SocketAddr>, Vec<SocketAddr>) = seen.iter().copied().partition(SocketAddr::is_ipv4);
    let [ipv4, ipv6] = [mapping(own, &ipv4), mapping(own, &ipv6)].map(|mapping| nat_of(&mapping));
    // What one family tells counts where nothing is known of the other.
    match (ipv4.verdict, ipv6.verdict) {
        (Verdict::Unknown, other) if other != Verdict::Unknown => ipv6,
        (one, other) if other > one && other != Verdict::Unknown => ipv6,
        _ => ipv4,
    }
}

/// What follows from a mapping.
fn nat_of(mapping: &Mapping) -> Check {
    let check = |verdict: Verdict, found: String| Check::new("nat", verdict, found);
    match mapping {
        Mapping::Unknown => check(Verdict::Unknown, "no peer over QUIC says where it sees this node".to_owned()),
        Mapping::Untranslated => {
            check(Verdict::Ok, "peers see an address of this machine: nothing is translated".to_owned())
        }
        Mapping::Single(address) => check(
            Verdict::Unknown,
            format!("one peer sees this node at {address}, which is not this machine's: it takes two to tell the kind"),
        ),
        Mapping::Same(address) => {
            check(Verdict::Ok, format!("peers see this node at {address}: same address and port for all"))
        }
        Mapping::Ports(address, ports) => {
            let found = format!(
                "peers see this node at {address} with {} different ports: those that do not know theirs cannot dial it",
                ports.len()
            );
            check(Verdict::Warn, found).hint("fleetsync status  # the router should forward the port it listens on")
        }
        Mapping::Addresses(addresses) => {
            let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            check(Verdict::Warn, format!("peers see this node at different addresses: {}", names(&all)))
                .hint("fleetsync peer ls  # members that can be reached lead to it")
        }
    }
}

/// A member, and how many ways lead there.
pub(crate) struct Reach {
    pub(crate) name: String,
    /// Whether this node or one that is present is linked with it.
    pub(crate) is_present: bool,
    /// Ways that begin with different neighbours.
    pub(crate) ways: usize,
}

/// Whether all other members are reached.
pub(crate) fn reach(members: &[Reach]) -> Check {
    let away: Vec<String> =
        members.iter().filter(|member| !member.is_present).map(|member| member.name.clone()).collect();
    match (members.len(), away.len()) {
        (0, _) => Check::new("reach", Verdict::Ok, "this is the only member"),
        (all, 0) => Check::new("reach", Verdict::Ok, format!("all {all} other members are reached")),
        (all, none) if none == all => {
            Check::new("reach", Verdict::Fail, "no other member is reached").hint("fleetsync peer ls")
        }
        (all, some) => Check::new(
            "reach",
            Verdict::Warn,
            format!("{some} of {all} other members are not reached: {}", names(&away)),
        )
        .hint("fleetsync peer ls"),
    }
}

/// Whether more than one way leads to each member that is reached.
pub(crate) fn second_path(members: &[Reach]) -> Check {
    let reached = || members.iter().filter(|member| member.is_present);
    let single: Vec<String> = reached().filter(|member| member.ways < 2).map(|member| member.name.clone()).collect();
    match (reached().count(), single.is_empty()) {
        (0, _) => Check::new("second path", Verdict::Unknown, "no other member is reached"),
        (1, false) => {
            Check::new("second path", Verdict::Ok, "there is one link between two members: there can be no other way")
        }
        (all, true) => {
            Check::new("second path", Verdict::Ok, format!("at least two ways lead to each of {all} members"))
        }
        (_, false) => {
            let hint = format!("fleetsync route show {}", single[0]);
            Check::new("second path", Verdict::Warn, format!("only one way leads to {}", names(&single))).hint(hint)
        }
    }
}

/// What splits the fleet when it goes, and how many are cut off then; by name.
pub(crate) struct Bridges {
    /// How many members hang together.
    pub(crate) members: usize,
    pub(crate) links: Vec<([String; 2], usize)>,
    pub(crate) nodes: Vec<(String, usize)>,
}

/// Whether the loss of one link or one node splits the fleet.
pub(crate) fn bridge(bridges: &Bridges) -> Check {
    let Bridges { members, links, nodes } = bridges;
    if *members < 3 {
        return Check::new("bridge", Verdict::Ok, "fewer than three members hang together: there is nothing to split");
    }
    if links.is_empty() && nodes.is_empty() {
        return Check::new(
            "bridge",
            Verdict::Ok,
            format!("no single link or node splits the {members} members that hang together"),
        );
    }
    let links = links.iter().map(|([a, b], count)| format!("the link {a} – {b} ({count})"));
    let nodes = nodes.iter().map(|(name, count)| format!("{name} ({count})"));
    let all: Vec<String> = nodes.chain(links).collect();
    Check::new(
        "bridge",
        Verdict::Warn,
        format!("the fleet splits without any one of (so many cut off): {}", names(&all)),
    )
    .hint("fleetsync route graph -o svg > mesh.svg")
}

/// What the machine shows of a node's data folder.
pub(crate) struct FolderState {
    pub(crate) path: PathBuf,
    /// Whether it is there, and a member's.
    pub(crate) is_member: bool,
    /// Permission bits of the folder, and of the device's key in it.
    pub(crate) mode: u32,
    pub(crate) key_mode: Option<u32>,
    pub(crate) is_writable: bool,
}

/// Whether the folder is this user's alone, and can be written.
pub(crate) fn folder(state: &FolderState) -> Check {
    let check = |verdict: Verdict, found: String| Check::new("data folder", verdict, found);
    let FolderState { path: folder, is_member, mode, key_mode, is_writable } = state;
    let (path, key) = (folder.display(), folder.join("device.key"));
    if !is_member {
        return check(Verdict::Fail, format!("{path} is not the folder of a member"))
            .hint(format!("fleetsync init --name NAME --data-dir {}  # or join TICKET", quoted(folder)));
    }
    if let Some(key_mode) = key_mode.filter(|mode| mode & 0o077 != 0) {
        let found = format!("others can read this device's key: {} has mode {key_mode:o}", key.display());
        return check(Verdict::Fail, found).hint(format!("chmod 600 {}", quoted(&key)));
    }
    match (is_writable, mode & 0o022 != 0) {
        (false, _) => check(Verdict::Fail, format!("{path} cannot be written by this user"))
            .hint(format!("ls -ld {}", quoted(folder))),
        (true, true) => check(Verdict::Warn, format!("others can write to {path}: it has mode {mode:o}"))
            .hint(format!("chmod 700 {}", quoted(folder))),
        (true, false) => {
            check(Verdict::Ok, format!("{path} has mode {mode:o} and can be written; the key is this user's alone"))
        }
    }
}

/// Whether there is room to write; below `reserve_bytes` nothing is taken.
pub(crate) fn space(free_bytes: u64, reserve_bytes: u64) -> Check {
    let check = |verdict: Verdict, found: String| Check::new("free space", verdict, found);
    let free = format!("{} MiB are free", free_bytes >> 20);
    if free_bytes < reserve_bytes {
        return check(Verdict::Fail, format!("{free}: below {} MiB the node takes nothing", reserve_bytes >> 20))
            .hint("df -h");
    }
    match free_bytes < SPACE_LOW_BYTES {
        true => check(Verdict::Warn, format!("{free}; below {} MiB the node takes nothing", reserve_bytes >> 20))
            .hint("df -h"),
        false => check(Verdict::Ok, free),
    }
}

/// Whether the fleet's root key lies on this device, at this path.
pub(crate) fn root_key(path: Option<&Path>) -> Check {
    match path {
        None => Check::new("root key", Verdict::Ok, "the fleet's root key does not lie here"),
        Some(path) => Check::new(
            "root key",
            Verdict::Warn,
            format!(
                "the fleet's root key lies on this device, at {}: who takes the device has the fleet",
                path.display()
            ),
        )
        .hint(format!("mv {} /media/  # to a disk that is kept apart", quoted(path))),
    }
}

/// Some names, and how many more there are.
fn names(all: &[String]) -> String {
    let shown = all[..all.len().min(NAMES_MAX)].join(", ");
    if all.len() > NAMES_MAX { format!("{shown} and {} more", all.len() - NAMES_MAX) } else { shown }
}
