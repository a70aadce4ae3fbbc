//! Where members and zones stand in a drawing: each zone's members on a ring, the zones' rings around a circle, nobody on
//! anybody. Pure and the same for the same mesh: no chance is in it.

use std::collections::BTreeMap;
use std::f64::consts::{FRAC_PI_2, PI, TAU};

use super::{LinkState, Mesh};

/// From one member to the next on a ring, pixels.
const SPACING: f64 = 26.0;
/// The smallest ring of several members, pixels.
const RING_MIN: f64 = 64.0;
/// From a member to its name, and from the longest name to the edge of its zone, pixels.
pub(super) const NAME_GAP: f64 = 11.0;
const EDGE_GAP: f64 = 12.0;
/// Between zones, and around all, pixels.
const ZONE_GAP: f64 = 46.0;
const MARGIN: f64 = 16.0;
/// How wide a letter of a name is, pixels.
pub(super) const LETTER: f64 = 6.8;
/// Letters of a name that are drawn; a longer one is cut.
pub(super) const LETTERS_MAX: usize = 24;

/// A place, pixels from the upper left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
}

impl Point {
    fn at(self, angle: f64, away: f64) -> Point {
        Point { x: self.x + away * angle.cos(), y: self.y + away * angle.sin() }
    }

    fn towards(self, other: Point) -> f64 {
        (other.y - self.y).atan2(other.x - self.x)
    }
}

/// A zone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Zone {
    pub(super) name: String,
    pub(super) middle: Point,
    /// Members and their names lie within, pixels.
    pub(super) radius: f64,
    /// The ring on which its members stand, pixels.
    ring: f64,
    /// The places of its members in the mesh, in order of name.
    members: Vec<usize>,
}

/// A member's place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spot {
    pub(super) at: Point,
    /// Where its name leads from there, radians clockwise from the right.
    pub(super) outward: f64,
}

/// A drawing's plan.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub(super) width: f64,
    pub(super) height: f64,
    /// In order of name.
    pub(super) zones: Vec<Zone>,
    /// By the member's place in the mesh.
    pub(super) spots: Vec<Spot>,
}

/// Plans a drawing.
pub(super) fn layout(mesh: &Mesh) -> Layout {
    let mut zones = zones_of(mesh);
    place_zones(&mut zones);
    let left = zones.iter().map(|zone| zone.middle.x - zone.radius).fold(0.0, f64::min);
    let top = zones.iter().map(|zone| zone.middle.y - zone.radius).fold(0.0, f64::min);
    for zone in &mut zones {
        zone.middle.x += MARGIN - left;
        zone.middle.y += MARGIN - top;
    }
    let right = zones.iter().map(|zone| zone.middle.x + zone.radius).fold(0.0, f64::max);
    let bottom = zones.iter().map(|zone| zone.middle.y + zone.radius).fold(0.0, f64::max);
    let spots = place_members(mesh, &zones);
    Layout { width: right + MARGIN, height: bottom + MARGIN, zones, spots }
}

fn zones_of(mesh: &Mesh) -> Vec<Zone> {
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, node) in mesh.nodes.iter().enumerate() {
        members.entry(node.zone.as_deref().unwrap_or_default()).or_default().push(place);
    }
    let letters = |place: &usize| mesh.nodes[*place].name.chars().count().min(LETTERS_MAX);
    let zone = |(name, members): (&str, Vec<usize>)| {
        let ring = match members.len() {
            1 => 0.0,
            count => (count as f64 * SPACING / TAU).max(RING_MIN),
        };
        let longest = members.iter().map(letters).max().unwrap_or(0) as f64 * LETTER;
        let radius = ring + NAME_GAP + longest + EDGE_GAP;
        Zone { name: name.to_owned(), middle: Point { x: 0.0, y: 0.0 }, radius, ring, members }
    };
    members.into_iter().map(zone).collect()
}

/// Around a circle, each with a share of it that is its own size; the circle is as large as any two of them need.
fn place_zones(zones: &mut [Zone]) {
    let all: f64 = zones.iter().map(|zone| zone.radius).sum();
    // The first one is at the left, so that two stand beside each other.
    let mut begins = PI - zones.first().map_or(0.0, |zone| PI * zone.radius / all);
    let mut angles = Vec::new();
    for zone in zones.iter() {
        let share = TAU * zone.radius / all;
        angles.push(begins + share / 2.0);
        begins += share;
    }
    let pairs = (0..zones.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
    let needed = pairs.map(|(one, other)| {
        let between = (angles[one] - angles[other]).rem_euclid(TAU);
        (zones[one].radius + zones[other].radius + ZONE_GAP) / (2.0 * (between / 2.0).sin())
    });
    let circle = needed.fold(0.0, f64::max);
    for (zone, angle) in zones.iter_mut().zip(angles) {
        zone.middle = zone.middle.at(angle, circle);
    }
}

/// Each zone's members in order of where those outside the zone lie that they are linked with, so that lines to other zones
/// leave from the side on which these are; who has none outside goes where there is room.
fn place_members(mesh: &Mesh, zones: &[Zone]) -> Vec<Spot> {
    let places: BTreeMap<&str, usize> =
        mesh.nodes.iter().enumerate().map(|(place, node)| (node.device.as_str(), place)).collect();
    let mut zone_of = vec![0; mesh.nodes.len()];
    for (number, zone) in zones.iter().enumerate() {
        zone.members.iter().for_each(|place| zone_of[*place] = number);
    }
    let mut outside: Vec<Vec<usize>> = vec![Vec::new(); mesh.nodes.len()];
    for link in mesh.links.iter().filter(|link| link.state == LinkState::Up) {
        let ends = (places.get(link.a.as_str()), places.get(link.b.as_str()));
        if let (Some(a), Some(b)) = ends
            && zone_of[*a] != zone_of[*b]
        {
            outside[*a].push(zone_of[*b]);
            outside[*b].push(zone_of[*a]);
        }
    }
    let nowhere = Spot { at: Point { x: 0.0, y: 0.0 }, outward: 0.0 };
    let mut spots = vec![nowhere; mesh.nodes.len()];
    for zone in zones {
        for (place, angle) in angles(zone, &outside, zones) {
            spots[place] = Spot { at: zone.middle.at(angle, zone.ring), outward: angle };
        }
    }
    spots
}

/// The members of a zone with their angles on its ring.
fn angles(zone: &Zone, outside: &[Vec<usize>], zones: &[Zone]) -> Vec<(usize, f64)> {
    let count = zone.members.len();
    let slot = |number: usize| -FRAC_PI_2 + TAU * number as f64 / count as f64;
    let wished = |place: &usize| {
        let peers = &outside[*place];
        let (x, y) = peers
            .iter()
            .map(|peer| zone.middle.towards(zones[*peer].middle))
            .fold((0.0, 0.0), |(x, y), to| (x + to.cos(), y + to.sin()));
        (!peers.is_empty()).then(|| f64::atan2(y, x))
    };
    // Whose links outside are most is served first; slots are taken once.
    let mut members = zone.members.clone();
    members.sort_by_key(|place| std::cmp::Reverse(outside[*place].len()));
    let mut free: Vec<usize> = (0..count).collect();
    let mut taken = Vec::new();
    for place in members {
        let far = |number: usize| match wished(&place) {
            Some(angle) => (slot(number) - angle).rem_euclid(TAU).min((angle - slot(number)).rem_euclid(TAU)),
            None => 0.0,
        };
        let nearest = free.iter().enumerate().min_by(|(_, one), (_, other)| far(**one).total_cmp(&far(**other)));
        let Some(at) = nearest.map(|(at, _)| at) else { break };
        taken.push((place, slot(free.remove(at))));
    }
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{many, mesh, node};
    use super::super::{LinkState, State};
    use super::*;

    fn apart(one: Point, other: Point) -> f64 {
        f64::hypot(one.x - other.x, one.y - other.y)
    }

    #[test]
    fn one_member_and_none_have_a_drawing() {
        let none = layout(&mesh(vec![], &[]));
        assert!(none.width > 0.0 && none.spots.is_empty() && none.zones.is_empty());
        let one = layout(&mesh(vec![node("a", "lab", State::Here)], &[]));
        assert_eq!(one.spots[0].at, one.zones[0].middle);
    }

    #[test]
    fn who_is_linked_with_another_zone_stands_on_its_side() {
        let nodes = ["a", "b", "c", "d"].map(|name| node(name, "lab", State::Linked)).into_iter();
        let nodes = nodes.chain([node("z", "yard", State::Linked)]).collect();
        let plan = layout(&mesh(nodes, &[("c", "z"), ("a", "b")]));
        let [lab, yard] = &plan.zones[..] else { panic!("two zones") };
        assert!(lab.middle.x < yard.middle.x);
        let rightmost = plan.spots[..4].iter().map(|spot| spot.at.x).fold(0.0, f64::max);
        assert_eq!(plan.spots[2].at.x, rightmost);
    }

    #[test]
    fn links_that_do_not_count_move_nobody() {
        let nodes = || ["a", "b", "c"].map(|name| node(name, "lab", State::Linked)).into_iter();
        let all = || nodes().chain([node("z", "yard", State::Away)]).collect();
        let mut one_sided = mesh(all(), &[("c", "z")]);
        one_sided.links[0].state = LinkState::OneSided;
        assert_eq!(layout(&one_sided).spots, layout(&mesh(all(), &[])).spots);
    }

    proptest! {
        /// From one member to a hundred, in any zones: all within the drawing and their zone, none on another.
        #[test]
        fn nobody_stands_on_anybody(
            zones in proptest::collection::vec(1usize..40, 1..9),
            seed in 0usize..1000,
        ) {
            let mesh = many(&zones, seed);
            let plan = layout(&mesh);
            prop_assert_eq!(&plan, &layout(&mesh), "the same twice");
            prop_assert_eq!(plan.spots.len(), mesh.nodes.len());
            for (number, one) in plan.spots.iter().enumerate() {
                prop_assert!(plan.spots[..number].iter().all(|other| apart(one.at, other.at) > 20.0));
                let zone = plan.zones.iter().find(|zone| zone.members.contains(&number)).expect("it has a zone");
                let letters = mesh.nodes[number].name.chars().count().min(LETTERS_MAX) as f64;
                prop_assert!(apart(one.at, zone.middle) + NAME_GAP + letters * LETTER <= zone.radius);
            }
            for (number, one) in plan.zones.iter().enumerate() {
                let Point { x, y } = one.middle;
                prop_assert!(x >= one.radius && y >= one.radius);
                prop_assert!(x + one.radius <= plan.width && y + one.radius <= plan.height);
                for other in &plan.zones[..number] {
                    prop_assert!(apart(one.middle, other.middle) >= one.radius + other.radius);
                }
            }
        }
    }
}
