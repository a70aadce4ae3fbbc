//! Each message once, as a person reads it.

use std::fs::write;

use super::super::{FILE_BYTES_MAX, Topology};

/// What a file with this text says is wrong.
fn fault(text: &str) -> String {
    Topology::parse("t", text, 1).unwrap_err().to_string()
}

/// The same after two zones, lab with 3 nodes and yard with 1.
fn fault_of_two(rest: &str) -> String {
    fault(&format!("[zones.lab]\nnodes = 3\n[zones.yard]\nnodes = 1\n{rest}"))
}

/// The last line of what is wrong: above it stands where.
fn last_line(message: &str) -> &str {
    message.trim_end().lines().last().unwrap()
}

#[test]
fn a_name_that_is_none_lists_the_presets() {
    let presets = "lan-12, balance, bulk-long, bulk-paths, failover, fleet-12-4z, lab-25, fleet-100-4z, fleet-200-8z, \
                   fleet-1000-8z, fleet-10000-8z, glomers-25, islands, behind-nat, line, star-behind-nat";
    let error = Topology::load("lan-13", 1).unwrap_err().to_string();
    assert_eq!(error, format!("no topology is named `lan-13`: there are {presets}, or the path of a .toml file"));
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    let path = path.to_str().unwrap();
    let error = || Topology::load(path, 1).unwrap_err().to_string();
    assert_eq!(error(), format!("topology {path} cannot be read: No such file or directory (os error 2)"));
    write(path, b"\xff").unwrap();
    assert_eq!(error(), format!("topology {path} cannot be read: stream did not contain valid UTF-8"));
    write(path, vec![b'#'; FILE_BYTES_MAX + 1]).unwrap();
    assert_eq!(error(), format!("topology {path} is longer than 4194304 bytes"));
    write(path, vec![b'#'; FILE_BYTES_MAX]).unwrap();
    assert!(error().contains("missing field `zones`"));
}

#[test]
fn what_is_no_toml_and_keys_that_there_are_not_say_where() {
    let expected = "topology t: TOML parse error at line 3, column 1\n  |\n3 | delay = 1\n  | ^^^^^\n\
        unknown field `delay`, expected one of `nodes`, `access_ms`, `nat`\n";
    assert_eq!(fault("[zones.a]\nnodes = 1\ndelay = 1"), expected);
    assert!(fault("zones = {").starts_with("topology t: TOML parse error at line 1, column "));
    for (text, says) in [
        ("", "missing field `zones`"),
        ("[zones.a]", "missing field `nodes`"),
        (
            "[zones.a]\nnodes = 1\n[zone]",
            "unknown field `zone`, expected one of `zones`, `within`, `across`, `between`, `mesh`, `link`",
        ),
        ("[zones.a]\nnodes = 1\n[[link]]\ndelay_ms = 1", "missing field `between`"),
        (
            "[zones.a]\nnodes = 1\n[mesh]\nkind = \"ring\"",
            "unknown variant `ring`, expected one of `full`, `near-far`, `line`, `star`, `listed`",
        ),
        ("[zones.a]\nnodes = \"many\"", "invalid type: string \"many\", expected i64"),
    ] {
        assert_eq!(last_line(&fault(text)), says, "{text}");
    }
}

#[test]
fn numbers_beyond_their_limits_say_the_limits() {
    for (text, says) in [
        ("[zones.a]\nnodes = 0", "0 is not allowed, allowed are 1 to 20000"),
        ("[zones.a]\nnodes = 20001", "20001 is not allowed, allowed are 1 to 20000"),
        ("[zones.a]\nnodes = 1\naccess_ms = 1001", "1001 is not allowed, allowed are 0 to 1000"),
        ("[within]\ndelay_ms = 10000.1", "10000.1 is not allowed, allowed are 0 to 10000"),
        ("[within]\ndelay_ms = 0.0004", "0.0004 is not allowed, the smallest above 0 is 0.001"),
        ("[across]\njitter_ms = -1", "-1 is not allowed, allowed are 0 to 10000"),
        ("[across]\nrate_mbit_s = inf", "inf is not allowed, allowed are 0 to 1000000"),
        ("[within]\nrate_mbit_s = 1e-6", "0.000001 is not allowed, the smallest above 0 is 0.000008"),
        ("[within]\nloss_percent = nan", "NaN is not allowed, allowed are 0 to 90"),
        ("[mesh]\nnear = 33", "33 is not allowed, allowed are 2 to 32"),
        ("[mesh]\nfar = 1", "1 is not allowed, allowed are 2 to 16"),
    ] {
        assert_eq!(last_line(&fault(text)), says, "{text}");
    }
    assert!(Topology::parse("t", "[zones.a]\nnodes = 2\n[within]\ndelay_ms = 10000\naccess_ms = 1000", 1).is_ok());
}

#[test]
fn zones() {
    assert_eq!(fault("[zones]"), "topology t: [zones] has 0 zones, allowed are 1 to 256");
    let many: String = (0..257).map(|zone| format!("[zones.z{zone}]\nnodes = 1\n")).collect();
    assert_eq!(fault(&many), "topology t: [zones] has 257 zones, allowed are 1 to 256");
    for name in ["Lab", "1st", "a_b", "lab-", "\"\"", "\"ä\"", "a23456789012345678901234567890123"] {
        let allowed = "1 to 32 lowercase letters, digits and `-`, a letter first and no `-` at the end";
        let says = format!("topology t: [zones] has `{}`, allowed are {allowed}", name.trim_matches('"'));
        assert_eq!(fault(&format!("[zones.{name}]\nnodes = 1")), says);
    }
    let nodes = "[zones.a]\nnodes = 10000\n[zones.b]\nnodes = 10001";
    assert_eq!(fault(nodes), "topology t: the zones have 20001 nodes, allowed are 20000");
}

#[test]
fn pairs_of_zones() {
    assert_eq!(
        fault_of_two("[[between]]\nzones = [\"lab\", \"shed\"]"),
        "topology t: [[between]] zones has `shed`, allowed are lab, yard"
    );
    assert_eq!(
        fault_of_two("[[between]]\nzones = [\"lab\", \"lab\"]"),
        "topology t: [[between]] zones has `lab` twice, allowed are two different ones; \
        [within] is for nodes of one zone"
    );
    assert_eq!(
        fault_of_two("[[between]]\nzones = [\"lab\", \"yard\"]\n[[between]]\nzones = [\"yard\", \"lab\"]"),
        "topology t: [[between]] zones has `yard` and `lab` a second time, allowed is one table a pair"
    );
}

#[test]
fn links() {
    assert_eq!(
        fault_of_two("[[link]]\nbetween = [\"lab-0\", \"lab-3\"]"),
        "topology t: [[link]] between has `lab-3`, allowed are lab-0 to lab-2, yard-0"
    );
    assert_eq!(
        fault_of_two("[[link]]\nbetween = [\"lab-0\", \"lab-0\"]"),
        "topology t: [[link]] between has `lab-0` twice, allowed are two different nodes"
    );
    assert_eq!(
        fault_of_two("[[link]]\nbetween = [\"lab-0\", \"yard-0\"]\n[[link]]\nbetween = [\"yard-0\", \"lab-0\"]"),
        "topology t: [[link]] between has `yard-0` and `lab-0` a second time, allowed is one table a link"
    );
}

#[test]
fn meshes() {
    assert_eq!(
        fault_of_two("[mesh]\nkind = \"full\"\nnear = 4"),
        "topology t: [mesh] near has no meaning where kind = \"full\", only where kind = \"near-far\""
    );
    assert_eq!(
        fault_of_two("[mesh]\nkind = \"line\"\nfar = 4"),
        "topology t: [mesh] far has no meaning where kind = \"line\", only where kind = \"near-far\""
    );
    assert_eq!(
        fault_of_two("[mesh]\nhubs = [\"lab-0\"]"),
        "topology t: [mesh] hubs has no meaning where kind = \"near-far\", only where kind = \"star\""
    );
    assert_eq!(
        fault_of_two("[mesh]\nkind = \"listed\"\nwithin_zones = true"),
        "topology t: [mesh] within_zones has no meaning where kind = \"listed\", \
        only where kind = \"full\", \"near-far\", \"line\" or \"star\""
    );
    assert_eq!(
        fault_of_two("[mesh]\nkind = \"star\"\nhubs = []"),
        "topology t: [mesh] hubs has 0 nodes, allowed are 1 to 16 different ones"
    );
    assert_eq!(
        fault_of_two("[mesh]\nkind = \"star\"\nhubs = [\"hub-0\"]"),
        "topology t: [mesh] hubs has `hub-0`, allowed are lab-0 to lab-2, yard-0"
    );
}

#[test]
fn fleets_with_too_many_links_or_in_parts() {
    assert_eq!(
        fault("[zones.a]\nnodes = 66\n[mesh]\nkind = \"full\""),
        "topology t: 2145 links of 66 nodes are too many, allowed are 64 a node on average"
    );
    assert!(Topology::parse("t", "[zones.a]\nnodes = 65\n[mesh]\nkind = \"full\"", 1).is_ok());
    let two = "[zones.a]\nnodes = 65\n[zones.b]\nnodes = 65\n[mesh]\nkind = \"full\"\nwithin_zones = true";
    assert_eq!(
        fault(&format!("{two}\n[[link]]\nbetween = [\"a-0\", \"b-0\"]")),
        "topology t: 4161 links of 130 nodes are too many, allowed are 64 a node on average"
    );
    let huge = "[zones.a]\nnodes = 20000\n[mesh]\nkind = \"full\"";
    assert_eq!(
        fault(huge),
        "topology t: 199990000 links of 20000 nodes are too many, allowed are 64 a node on average"
    );
    assert_eq!(
        fault_of_two("[mesh]\nwithin_zones = true"),
        "topology t: no way leads from lab-0 to yard-0, allowed are fleets of one part: link them with a [[link]]"
    );
}
