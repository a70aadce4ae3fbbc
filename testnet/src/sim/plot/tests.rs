use super::*;
use crate::sim::topology::Place;

fn fleet(zones: &[(&str, usize)]) -> Topology {
    let places = zones.iter().flat_map(|(zone, nodes)| {
        (0..*nodes).map(move |number| Place { name: format!("{zone}-{number}"), zone: (*zone).to_owned(), nat: None })
    });
    Topology { name: "fleet".to_owned(), nodes: places.collect(), lines: Vec::new() }
}

fn happened(at_us: u64, node: usize, peer: Option<usize>, what: What, change: u64) -> Happened {
    Happened { at_us, node, peer, what, log: "ab".repeat(16), seq: change, hash: format!("{change:064x}") }
}

/// One change from node 0 over all others in a row, `hop_us` each.
fn row(deliveries: &mut Deliveries, change: u64, start_us: u64, nodes: usize, hop_us: u64) {
    deliveries.happened(&happened(start_us, 0, None, What::Written, change));
    for node in 1..nodes {
        let at_us = start_us + node as u64 * hop_us;
        deliveries.happened(&happened(at_us, node, Some(node - 1), What::Stored, change));
    }
}

/// The elements of an XML document by name, or what is wrong with it. Knows what an SVG of ours may use.
fn elements(xml: &str) -> Result<BTreeMap<String, usize>, String> {
    let (mut open, mut counts) = (Vec::new(), BTreeMap::new());
    let mut rest = xml.trim();
    while let Some(after) = rest.strip_prefix('<') {
        let (tag, text) = after.split_once('>').ok_or("a tag does not end")?;
        let (text, next) = text.split_at(text.find('<').unwrap_or(text.len()));
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
        } else {
            let name = tag.split([' ', '/']).next().unwrap_or_default();
            attributes(tag[name.len()..].trim_end_matches('/'))?;
            *counts.entry(name.to_owned()).or_default() += 1;
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        plain(text)?;
        rest = next;
        if open.is_empty() && !(text.trim().is_empty() && rest.is_empty()) {
            return Err("something follows the root".to_owned());
        }
    }
    if open.is_empty() && rest.is_empty() { Ok(counts) } else { Err(format!("{open:?} {rest:?}")) }
}

fn attributes(mut text: &str) -> Result<(), String> {
    let mut names = Vec::new();
    while !text.trim_start().is_empty() {
        let (name, rest) = text.trim_start().split_once("=\"").ok_or_else(|| format!("no attribute: {text:?}"))?;
        let (value, rest) = rest.split_once('"').ok_or_else(|| format!("an open value: {text:?}"))?;
        if names.contains(&name) || name.contains(|c: char| !c.is_ascii_alphanumeric() && !"-:".contains(c)) {
            return Err(format!("attribute {name:?}"));
        }
        plain(value)?;
        names.push(name);
        text = rest;
    }
    Ok(())
}

fn plain(text: &str) -> Result<(), String> {
    let entity = |rest: &str| ["amp;", "lt;", "gt;", "quot;", "apos;"].iter().any(|name| rest.starts_with(name));
    let is_bad = text.split('&').skip(1).any(|rest| !entity(rest))
        || text.contains(|c: char| (c.is_control() && c != '\n') || "<>\u{fffe}\u{ffff}".contains(c));
    if is_bad { Err(format!("{text:?} is not escaped")) } else { Ok(()) }
}

#[test]
fn the_checker_knows_what_is_not_xml() {
    for bad in ["<a>", "<a></b>", "<a b=\"1\" b=\"2\"/>", "<a b=1/>", "<a>&</a>", "<a b=\"&x;\"/>", "<a/><b/>", "<a/>x"]
    {
        assert!(elements(bad).is_err(), "{bad}");
    }
    assert_eq!(elements("<a b=\"&lt;\"><c/>\n<c/>&amp;</a>\n").unwrap()["c"], 2);
}

#[test]
fn a_picture_is_xml_with_a_dot_for_each_node() {
    let zones = [("north", 7), ("south & <west>\u{1}\u{ffff}", 12), ("\"east'", 1)];
    let topology = fleet(&zones);
    let mut deliveries = Deliveries::default();
    row(&mut deliveries, 1, 0, 20, 3000);
    // Later and as far; then one that goes less far.
    row(&mut deliveries, 0xbeef, 500_000, 15, 3000);
    let svg = delays_and_tree(&topology, 42, Some(60_000), &deliveries).unwrap();
    let counts = elements(&svg).unwrap();
    // Each zone is an area and an outline.
    assert_eq!(counts["circle"], 20 + 2 * zones.len());
    // Every one but the origin was brought by another; all deliveries have one bold curve, and those to each zone one.
    assert_eq!(polylines(&svg, "stroke-width=\"3\""), 19);
    assert_eq!(polylines(&svg, "stroke-width=\"5\""), 1);
    for (colour, curves) in ZONE_COLOURS.iter().zip([1, 1, 1, 0]) {
        let RGBColor(red, green, blue) = colour;
        assert_eq!(polylines(&svg, &format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\" stroke-width=\"2\"")), curves);
    }
    for text in [
        "fleet, seed 42: 33 deliveries of 2 changes",
        "change 00000000 (abababab:1): 20 of 20 nodes in 57.0 ms",
        "south &amp; &lt;west&gt; (12)",
        "D 60.0 ms",
        "p50 27.0 ms",
        "p99 57.0 ms",
        "6 or more: 14",
    ] {
        assert!(svg.contains(text), "{text}");
    }
    assert!(!svg.contains("not reached"));
    let again = delays_and_tree(&topology, 42, None, &deliveries).unwrap();
    assert!(!again.contains("D 60.0 ms"));
}

fn polylines(svg: &str, with: &str) -> usize {
    svg.lines().filter(|line| line.starts_with("<polyline") && line.contains(with)).count()
}

#[test]
fn the_last_of_the_widest_is_drawn_with_whom_it_missed() {
    let topology = fleet(&[("one", 5)]);
    let mut deliveries = Deliveries::default();
    row(&mut deliveries, 1, 0, 4, 1000);
    row(&mut deliveries, 2, 9000, 4, 1000);
    row(&mut deliveries, 3, 20_000, 3, 1000);
    let svg = delays_and_tree(&topology, 1, None, &deliveries).unwrap();
    assert!(svg.contains("(abababab:2): 4 of 5 nodes in 3.00 ms"));
    assert!(svg.contains("not reached: 1"));
}

#[test]
fn what_was_not_seen_written_does_not_count() {
    let topology = fleet(&[("one", 3)]);
    let mut deliveries = Deliveries::default();
    deliveries.happened(&happened(5, 1, Some(0), What::Stored, 1));
    assert!(matches!(delays_and_tree(&topology, 1, None, &deliveries), Err(PlotError::Nothing)));
    row(&mut deliveries, 2, 0, 1, 1);
    assert!(matches!(delays_and_tree(&topology, 1, None, &deliveries), Err(PlotError::Nothing)));
    row(&mut deliveries, 3, 0, 2, 1);
    assert!(delays_and_tree(&topology, 1, None, &deliveries).is_ok());
}

#[test]
fn a_slow_tail_makes_the_axis_logarithmic() {
    let topology = fleet(&[("one", 30)]);
    let labels = |last_us| {
        let mut deliveries = Deliveries::default();
        row(&mut deliveries, 1, 0, 29, 1000);
        deliveries.happened(&happened(last_us, 29, Some(0), What::Stored, 1));
        delays_and_tree(&topology, 1, None, &deliveries).unwrap()
    };
    let is_label = |svg: &str, text: &str| svg.lines().any(|line| line == text);
    assert!(is_label(&labels(40_000), "20") && !is_label(&labels(40_000), "1000"));
    assert!(is_label(&labels(5_000_000), "1000") && !is_label(&labels(5_000_000), "20"));
}

#[test]
fn changes_past_the_limit_are_counted() {
    let topology = fleet(&[("one", 3)]);
    let mut deliveries = Deliveries::default();
    row(&mut deliveries, 1, 0, 3, 1000);
    deliveries.kept = DELIVERIES_MAX;
    row(&mut deliveries, 2, 0, 3, 1000);
    let svg = delays_and_tree(&topology, 1, None, &deliveries).unwrap();
    assert!(svg.contains("2 deliveries of 1 change (1 later change is left out)"), "{svg}");
}

#[test]
fn many_zones_and_nodes_still_give_a_picture() {
    let names: Vec<String> = (0..70).map(|zone| format!("zone-{zone}")).collect();
    let zones: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 40)).collect();
    let mut deliveries = Deliveries::default();
    row(&mut deliveries, 1, 0, 2800, 10);
    let svg = delays_and_tree(&fleet(&zones), 1, None, &deliveries).unwrap();
    assert_eq!(elements(&svg).unwrap()["circle"], 2800 + 2 * 70);
    assert!(svg.contains("and 58 zones more"));
}
