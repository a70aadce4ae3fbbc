//! A topology's file: from TOML to a plan in which every name is known and every number within its limits.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::error::Fault;
use super::ground::{Ground, Quality, Zone};
use super::mesh::{self, Mesh};
use super::parts::Parts;
use super::values::{AccessMillis, Mbit, Millis, Percent, Whole};
use super::{LINKS_PER_NODE_MAX, Line, NODES_MAX, Nat, Place, Topology, ZONES_MAX};

/// Longest name of a zone, bytes.
const ZONE_NAME_BYTES_MAX: usize = 32;
/// Most hubs of a star: each node is linked with each.
const HUBS_MAX: usize = 16;
/// What `[within]` leaves out.
const WITHIN: Quality = Quality { delay_us: 200, jitter_us: 0, rate: 0, loss_ppm: 0 };
/// What `[across]` leaves out.
const ACROSS: Quality = Quality { delay_us: 40_000, jitter_us: 0, rate: 0, loss_ppm: 0 };

/// A table that says what links are like, with keys of its own. (Serde's `flatten` would let unknown keys pass.)
macro_rules! quality_table {
    ($(#[$attribute:meta])* $name:ident { $($key:ident: $kind:ty),* $(,)? }) => {
        $(#[$attribute])*
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($key: $kind,)*
            delay_ms: Option<Millis>,
            jitter_ms: Option<Millis>,
            rate_mbit_s: Option<Mbit>,
            loss_percent: Option<Percent>,
        }

        impl $name {
            /// What it says, and the rest as it is otherwise.
            fn over(&self, otherwise: Quality) -> Quality {
                Quality {
                    delay_us: self.delay_ms.map_or(otherwise.delay_us, Millis::steps),
                    jitter_us: self.jitter_ms.map_or(otherwise.jitter_us, Millis::steps),
                    rate: self.rate_mbit_s.map_or(otherwise.rate, Mbit::steps),
                    loss_ppm: self.loss_percent.map_or(otherwise.loss_ppm, |percent| percent.steps() as u32),
                }
            }
        }
    };
}

quality_table!(#[derive(Default)] WithinTable { access_ms: Option<AccessMillis> });
quality_table!(
    #[derive(Default)]
    AcrossTable {}
);
quality_table!(BetweenTable { zones: (String, String) });
quality_table!(LinkTable { between: (String, String) });

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    zones: BTreeMap<String, ZoneTable>,
    #[serde(default)]
    within: WithinTable,
    #[serde(default)]
    across: AcrossTable,
    #[serde(default)]
    between: Vec<BetweenTable>,
    #[serde(default)]
    mesh: MeshTable,
    #[serde(default)]
    link: Vec<LinkTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneTable {
    nodes: Whole<1, { NODES_MAX as i64 }>,
    access_ms: Option<AccessMillis>,
    nat: Option<Nat>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeshTable {
    #[serde(default)]
    kind: Kind,
    near: Option<Whole<2, 32>>,
    far: Option<Whole<2, 16>>,
    hubs: Option<Vec<String>>,
    within_zones: Option<bool>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Full,
    #[default]
    NearFar,
    Line,
    Star,
    Listed,
}

/// What a file says, checked; the seed decides the rest.
pub(super) struct Plan {
    zones: Vec<Zone>,
    /// What links are like between zones and within them.
    between: Vec<Vec<Quality>>,
    places: Vec<Place>,
    mesh: Mesh,
    within_zones: bool,
    /// The links that are named.
    links: BTreeMap<(usize, usize), LinkTable>,
}

impl Plan {
    pub(super) fn parse(text: &str) -> Result<Plan, Fault> {
        let file: File = toml::from_str(text)?;
        let zones = zones(&file)?;
        let names: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
        let between = qualities(&file, &names)?;
        let places = places(&zones);
        let numbers: BTreeMap<&str, usize> =
            places.iter().enumerate().map(|(number, place)| (place.name.as_str(), number)).collect();
        let mesh = mesh(&file.mesh, &zones, &numbers)?;
        let links = links(file.link, &zones, &numbers)?;
        let within_zones = file.mesh.within_zones.unwrap_or(false);
        Ok(Plan { zones, between, mesh, within_zones, links, places })
    }

    /// Where its nodes stand, by the same seed as in [`Plan::build`].
    pub(super) fn ground(&self, seed: u64) -> Ground {
        Ground::new(&self.zones, &self.places, self.between.clone(), seed)
    }

    /// The topology that a seed makes of it.
    pub(super) fn build(self, name: &str, seed: u64) -> Result<Topology, Fault> {
        let ground = self.ground(seed);
        let groups = if self.within_zones { ground.by_zone() } else { vec![(0..self.places.len()).collect()] };
        // Before they are made: a full mesh of 20,000 would not fit into memory.
        let expected: usize = groups.iter().map(|group| self.mesh.links_at_most(group.len())).sum();
        limit_links(expected, self.places.len())?;
        let mut pairs = BTreeSet::new();
        for group in &groups {
            mesh::choose(&self.mesh, &ground, group, &mut pairs);
        }
        let mut lines: BTreeMap<(usize, usize), Line> =
            pairs.into_iter().map(|(a, b)| ((a, b), ground.line(a, b))).collect();
        for (ends, table) in self.links {
            let quality = table.over(ground.quality(ends.0, ends.1));
            lines.insert(ends, quality.line(ends));
        }
        limit_links(lines.len(), self.places.len())?;
        let topology = Topology { name: name.to_owned(), nodes: self.places, lines: lines.into_values().collect() };
        match Parts::of(&topology).stranger() {
            Some(node) => Err(Fault::Apart(topology.nodes[0].name.clone(), topology.nodes[node].name.clone())),
            None => Ok(topology),
        }
    }
}

fn zones(file: &File) -> Result<Vec<Zone>, Fault> {
    if file.zones.is_empty() || file.zones.len() > ZONES_MAX {
        return Err(Fault::Zones(file.zones.len()));
    }
    if let Some(name) = file.zones.keys().find(|name| !is_zone_name(name)) {
        return Err(Fault::ZoneName(name.clone()));
    }
    let nodes = file.zones.values().map(|zone| zone.nodes.value()).sum();
    if nodes > NODES_MAX {
        return Err(Fault::Nodes(nodes));
    }
    let zone = |(name, table): (&String, &ZoneTable)| Zone {
        name: name.clone(),
        nodes: table.nodes.value(),
        access_us: table.access_ms.or(file.within.access_ms).map_or(0, AccessMillis::steps),
        nat: table.nat,
    };
    Ok(file.zones.iter().map(zone).collect())
}

/// A part of a host's name: a lab gives its machines the nodes' names.
fn is_zone_name(name: &str) -> bool {
    name.len() <= ZONE_NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-')
}

fn places(zones: &[Zone]) -> Vec<Place> {
    let mut order: Vec<(usize, &Zone)> =
        zones.iter().flat_map(|zone| (0..zone.nodes).map(move |number| (number, zone))).collect();
    // Stable: the zones keep their order within a number.
    order.sort_by_key(|(number, _)| *number);
    order
        .into_iter()
        .map(|(number, zone)| Place { name: format!("{}-{number}", zone.name), zone: zone.name.clone(), nat: zone.nat })
        .collect()
}

fn qualities(file: &File, names: &[&str]) -> Result<Vec<Vec<Quality>>, Fault> {
    let across = file.across.over(ACROSS);
    let mut qualities = vec![vec![across; names.len()]; names.len()];
    for (zone, row) in qualities.iter_mut().enumerate() {
        row[zone] = file.within.over(WITHIN);
    }
    let mut seen = BTreeSet::new();
    let known = |zone: &String| {
        names
            .binary_search(&zone.as_str())
            .map_err(|_| Fault::UnknownZone { zone: zone.clone(), zones: names.join(", ") })
    };
    for table in &file.between {
        let (one, other) = (&table.zones.0, &table.zones.1);
        let (a, b) = (known(one)?, known(other)?);
        if a == b {
            return Err(Fault::SameZone(one.clone()));
        }
        if !seen.insert((a.min(b), a.max(b))) {
            return Err(Fault::ZonesAgain(one.clone(), other.clone()));
        }
        qualities[a][b] = table.over(across);
        qualities[b][a] = qualities[a][b];
    }
    Ok(qualities)
}

fn node(key: &'static str, name: &str, zones: &[Zone], numbers: &BTreeMap<&str, usize>) -> Result<usize, Fault> {
    let range = |zone: &Zone| match zone.nodes {
        1 => format!("{}-0", zone.name),
        nodes => format!("{}-0 to {}-{}", zone.name, zone.name, nodes - 1),
    };
    numbers.get(name).copied().ok_or_else(|| Fault::UnknownNode {
        key,
        node: name.to_owned(),
        allowed: zones.iter().map(range).collect::<Vec<_>>().join(", "),
    })
}

fn mesh(table: &MeshTable, zones: &[Zone], numbers: &BTreeMap<&str, usize>) -> Result<Mesh, Fault> {
    let (kind, name) = (table.kind, name_of(table.kind));
    let only = |key, is_said: bool, is_meant: bool, allowed| match is_said && !is_meant {
        true => Err(Fault::Meaningless { key, kind: name, allowed }),
        false => Ok(()),
    };
    only("near", table.near.is_some(), kind == Kind::NearFar, "\"near-far\"")?;
    only("far", table.far.is_some(), kind == Kind::NearFar, "\"near-far\"")?;
    only("hubs", table.hubs.is_some(), kind == Kind::Star, "\"star\"")?;
    let chooses = "\"full\", \"near-far\", \"line\" or \"star\"";
    only("within_zones", table.within_zones.is_some(), kind != Kind::Listed, chooses)?;
    Ok(match kind {
        Kind::Full => Mesh::Full,
        Kind::NearFar => {
            Mesh::NearFar { near: table.near.map_or(8, Whole::value), far: table.far.map_or(4, Whole::value) }
        }
        Kind::Line => Mesh::Line,
        Kind::Star => Mesh::Star { hubs: hubs(table.hubs.as_deref(), zones, numbers)? },
        Kind::Listed => Mesh::Listed,
    })
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Full => "full",
        Kind::NearFar => "near-far",
        Kind::Line => "line",
        Kind::Star => "star",
        Kind::Listed => "listed",
    }
}

fn hubs(names: Option<&[String]>, zones: &[Zone], numbers: &BTreeMap<&str, usize>) -> Result<BTreeSet<usize>, Fault> {
    let Some(names) = names else { return Ok(BTreeSet::new()) };
    let hubs =
        names.iter().map(|name| node("[mesh] hubs", name, zones, numbers)).collect::<Result<BTreeSet<_>, _>>()?;
    if hubs.is_empty() || hubs.len() > HUBS_MAX || hubs.len() < names.len() {
        return Err(Fault::Hubs { hubs: hubs.len(), most: HUBS_MAX });
    }
    Ok(hubs)
}

fn links(
    tables: Vec<LinkTable>,
    zones: &[Zone],
    numbers: &BTreeMap<&str, usize>,
) -> Result<BTreeMap<(usize, usize), LinkTable>, Fault> {
    let mut links = BTreeMap::new();
    for table in tables {
        let (one, other) = &table.between;
        let a = node("[[link]] between", one, zones, numbers)?;
        let b = node("[[link]] between", other, zones, numbers)?;
        if a == b {
            return Err(Fault::SameNode(one.clone()));
        }
        let ends = (a.min(b), a.max(b));
        if links.contains_key(&ends) {
            return Err(Fault::LinkAgain(one.clone(), other.clone()));
        }
        links.insert(ends, table);
    }
    Ok(links)
}

fn limit_links(links: usize, nodes: usize) -> Result<(), Fault> {
    match links * 2 > nodes * LINKS_PER_NODE_MAX {
        true => Err(Fault::Links { links, nodes }),
        false => Ok(()),
    }
}
