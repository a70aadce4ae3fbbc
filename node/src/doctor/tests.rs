//! Each check with findings that are as they should be, and with ones that are not.

use super::*;

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The verdict, and that the finding has these words; whatever is wrong has a hint.
#[track_caller]
fn is(check: &Check, verdict: Verdict, words: &[&str]) {
    assert_eq!(check.verdict, verdict, "{check:?}");
    assert!(words.iter().all(|word| check.found.contains(word)), "{check:?}");
    assert!(check.hint.is_some() || !matches!(verdict, Verdict::Warn | Verdict::Fail), "{check:?}");
}

#[test]
fn a_node_that_is_down_or_told_to_stay_away_or_no_member() {
    is(&node(Some(5), "s", "x".to_owned()), Verdict::Ok, &["5 s"]);
    is(&node(None, "/a/api.sock", "fleetsync run".to_owned()), Verdict::Fail, &["/a/api.sock"]);
    is(&standing("member"), Verdict::Ok, &[]);
    is(&standing("removed"), Verdict::Fail, &["removed"]);
    is(&offline(false), Verdict::Ok, &[]);
    is(&offline(true), Verdict::Warn, &["offline"]);
}

#[test]
fn ports_are_shown_to_be_open_by_who_dialled_in() {
    let both: BTreeSet<String> = ["/ip4/10.0.0.1/udp/4410/quic-v1", "/ip4/10.0.0.1/tcp/4410"].map(str::to_owned).into();
    let of = |listening: &BTreeSet<String>, links: &[(&str, bool)]| {
        let links: Vec<(String, bool)> = links.iter().map(|(address, by_us)| ((*address).to_owned(), *by_us)).collect();
        ports(&Reachable { listening, dials_only: false, links: &links, reached: &[], relays: &[] })
    };
    let quic = "/ip4/10.0.0.2/udp/9/quic-v1";
    is(&of(&both, &[]), Verdict::Unknown, &["4410", "no link"]);
    is(&of(&both, &[(quic, true)]), Verdict::Unknown, &["dialled all"]);
    is(&of(&both, &[(quic, true), (quic, false)]), Verdict::Ok, &["1 of 2"]);
    is(&of(&both, &[("/ip4/10.0.0.2/tcp/9", false)]), Verdict::Warn, &["nobody over UDP"]);
    is(&of(&BTreeSet::new(), &[]), Verdict::Fail, &["no port"]);
    for (left, word) in both.iter().zip(["no UDP port", "no TCP port"]) {
        is(&of(&[left.clone()].into(), &[]), Verdict::Warn, &[word]);
    }
    let nothing = Reachable { listening: &BTreeSet::new(), dials_only: true, links: &[], reached: &[], relays: &[] };
    is(&ports(&nothing), Verdict::Ok, &["dials"]);
    let dialled = [(quic.to_owned(), true)];
    let [reached, relays] = ["/ip4/192.0.2.7/udp/9/quic-v1", "hub-1"].map(|text| vec![text.to_owned()]);
    let of =
        |reached, relays| ports(&Reachable { listening: &both, dials_only: false, links: &dialled, reached, relays });
    is(&of(&reached, &[]), Verdict::Ok, &["reach it at /ip4/192.0.2.7"]);
    is(&of(&[], &relays), Verdict::Ok, &["nobody dials it", "over hub-1"]);
    is(&port_of_a_stopped_node(4410, false, true), Verdict::Ok, &["free"]);
    is(&port_of_a_stopped_node(4410, false, false), Verdict::Ok, &["picks"]);
    is(&port_of_a_stopped_node(4410, true, false), Verdict::Fail, &["4410 is in use"]);
}

#[test]
fn the_clock_of_most_peers_is_believed_and_that_of_one_is_not() {
    let of = |ahead: &[i64]| {
        let names = ["a", "b", "c"].map(str::to_owned).into_iter();
        clock(&names.zip(ahead.iter().copied()).collect::<Vec<_>>())
    };
    is(&of(&[]), Verdict::Unknown, &[]);
    is(&of(&[-40, 60, 20]), Verdict::Ok, &["3 peers", "20 ms"]);
    is(&of(&[20_000]), Verdict::Warn, &["20 s behind", "that of a", "one of both"]);
    is(&of(&[-7_200_000, 0, 3]), Verdict::Warn, &["not that of a"]);
    is(&of(&[0, 60_000]), Verdict::Warn, &["not that of b"]);
    is(&of(&[60_000, 61_000, 0]), Verdict::Warn, &["60 s behind"]);
    is(&of(&[-7_200_000, -7_200_000, 0]), Verdict::Fail, &["2 h ahead of"]);
    is(&of(&[i64::MAX, i64::MIN, i64::MIN]), Verdict::Fail, &["ahead of"]);
}

#[test]
fn datagrams_that_pass_are_known_by_the_links_that_are_up() {
    let of = |quic: usize, tcp_instead: &[&str], interfaces: &[(&str, u32)]| {
        let interfaces = interfaces.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
        mtu(&Datagrams { quic, tcp_instead: &owned(tcp_instead), interfaces: &interfaces })
    };
    is(&of(2, &[], &[("eth0", 1500)]), Verdict::Ok, &["2 QUIC links", "eth0 1500"]);
    is(&of(0, &[], &[]), Verdict::Unknown, &[]);
    is(&of(2, &[], &[("tun0", 1000), ("eth0", 1500)]), Verdict::Warn, &["too small", "tun0"]);
    is(&of(2, &["b"], &[]), Verdict::Warn, &["TCP", "too: b; UDP", "way, or datagrams of 1,200 bytes do"]);
}

#[test]
fn what_translates_addresses_is_told_by_family() {
    let own: BTreeSet<IpAddr> = ["10.0.0.5", "2001:db8::5"].map(|ip| ip.parse().unwrap()).into();
    let of = |seen: &[&str]| nat(&own, &seen.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
    is(&of(&[]), Verdict::Unknown, &[]);
    is(&of(&["10.0.0.5:1", "10.0.0.5:1"]), Verdict::Ok, &["nothing is translated"]);
    is(&of(&["192.0.2.1:4410"]), Verdict::Unknown, &["192.0.2.1:4410", "takes two"]);
    is(&of(&["192.0.2.1:4410", "192.0.2.1:4410"]), Verdict::Ok, &["same address and port"]);
    is(&of(&["192.0.2.1:1", "192.0.2.1:2"]), Verdict::Warn, &["2 different ports"]);
    is(&of(&["192.0.2.1:1", "192.0.2.2:1"]), Verdict::Warn, &["different addresses"]);
    is(&of(&["[2001:db8::5]:1"]), Verdict::Ok, &["nothing"]);
    is(&of(&["192.0.2.1:1", "192.0.2.1:2", "[2001:db8::5]:1"]), Verdict::Warn, &["ports"]);
    is(&of(&["10.0.0.5:1", "[2001:db8::9]:1", "[2001:db8::9]:2"]), Verdict::Warn, &["ports"]);
}

fn reaches(of: &[(&str, bool, usize)]) -> Vec<Reach> {
    let reach = |(name, is_present, ways): &(&str, bool, usize)| Reach {
        name: (*name).to_owned(),
        is_present: *is_present,
        ways: *ways,
    };
    of.iter().map(reach).collect()
}

#[test]
fn members_that_are_not_reached_and_those_that_one_way_leads_to() {
    is(&reach(&[]), Verdict::Ok, &["only member"]);
    is(&reach(&reaches(&[("b", true, 1)])), Verdict::Ok, &["all 1"]);
    is(&reach(&reaches(&[("b", true, 1), ("c", false, 0)])), Verdict::Warn, &["1 of 2", "c"]);
    is(&reach(&reaches(&[("b", false, 0)])), Verdict::Fail, &["no other"]);
    is(&second_path(&reaches(&[("b", false, 0)])), Verdict::Unknown, &[]);
    is(&second_path(&reaches(&[("b", true, 1)])), Verdict::Ok, &["no other way"]);
    is(&second_path(&reaches(&[("b", true, 2), ("c", true, 3), ("d", false, 0)])), Verdict::Ok, &["2 members"]);
    let check = second_path(&reaches(&[("b", true, 2), ("c", true, 1)]));
    is(&check, Verdict::Warn, &["to c"]);
    assert_eq!(check.hint.as_deref(), Some("fleetsync route show c"));
}

#[test]
fn what_splits_the_fleet_is_named() {
    let of = |members: usize, links: &[([&str; 2], usize)], nodes: &[(&str, usize)]| {
        bridge(&Bridges {
            members,
            links: links.iter().map(|(ends, count)| (ends.map(str::to_owned), *count)).collect(),
            nodes: nodes.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        })
    };
    is(&of(2, &[(["a", "b"], 1)], &[]), Verdict::Ok, &["fewer than three"]);
    is(&of(5, &[], &[]), Verdict::Ok, &["5 members"]);
    is(&of(5, &[(["a", "b"], 2)], &[("c", 1)]), Verdict::Warn, &["c (1)", "a – b (2)"]);
    let many: Vec<(String, usize)> = (0..20).map(|number| (number.to_string(), 1)).collect();
    is(&bridge(&Bridges { members: 21, links: vec![], nodes: many }), Verdict::Warn, &["and 12 more"]);
}

#[test]
fn the_folder_its_space_and_the_root_key() {
    let ok =
        || FolderState { path: "/d".into(), is_member: true, mode: 0o700, key_mode: Some(0o600), is_writable: true };
    is(&folder(&ok()), Verdict::Ok, &["700"]);
    is(&folder(&FolderState { is_member: false, ..ok() }), Verdict::Fail, &["not the folder"]);
    is(&folder(&FolderState { key_mode: Some(0o640), ..ok() }), Verdict::Fail, &["device.key", "640"]);
    is(&folder(&FolderState { is_writable: false, ..ok() }), Verdict::Fail, &["cannot be written"]);
    is(&folder(&FolderState { mode: 0o775, ..ok() }), Verdict::Warn, &["775"]);
    is(&folder(&FolderState { mode: 0o755, ..ok() }), Verdict::Ok, &["755"]);
    let reserve = 64 << 20;
    is(&space(1 << 40, reserve), Verdict::Ok, &["MiB are free"]);
    is(&space(100 << 20, reserve), Verdict::Warn, &["100 MiB"]);
    is(&space(63 << 20, reserve), Verdict::Fail, &["takes nothing"]);
    is(&root_key(None), Verdict::Ok, &[]);
    is(&root_key(Some(Path::new("/k/root.key"))), Verdict::Warn, &["/k/root.key"]);
}
