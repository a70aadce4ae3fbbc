//! The mesh as a drawing: an SVG document that shows on light and on dark ground, without a background of its own.

use super::layout::{LETTER, LETTERS_MAX, Layout, NAME_GAP, Point, Spot, layout};
use super::{Link, LinkState, Mesh, Node, State, label, sentence};

/// Above the drawing, for what it shows, and below it, for what the signs mean, pixels.
const TITLE_HEIGHT: f64 = 44.0;
const LEGEND_HEIGHT: f64 = 84.0;
/// The narrowest drawing: the legend has room, pixels.
const WIDTH_MIN: f64 = 660.0;
/// The dot of a member, pixels.
const DOT: f64 = 6.0;
/// With more links these are thinner, and what they are like is told where the pointer rests.
const LABELLED_MAX: usize = 16;
const BOLD_MAX: usize = 80;
/// Where on a link its label may stand, the best place first: shares of the way from one end to the other.
const LABEL_AT: [f64; 9] = [0.5, 0.4, 0.6, 0.3, 0.7, 0.22, 0.78, 0.15, 0.85];
/// The height of a label, pixels, and how much narrower its letters are than those of names.
const LABEL_HEIGHT: f64 = 12.0;
const LABEL_LETTERS: f64 = 0.85;
/// A name turns with its ring where a zone has more members.
const LEVEL_MAX: usize = 8;

/// Colours of middle brightness, which people who see fewer colours tell apart as well (after Okabe and Ito).
const TEXT: &str = "#7a828c";
const ZONE: &str = "#8a929c";
const UNMEASURED: &str = "#8a929c";
/// The colour of a link by its round trip: up to so many milliseconds.
const ROUND_TRIPS: [(f64, &str, &str); 4] = [
    (5.0, "#2f8f6f", "up to 5 ms"),
    (50.0, "#3b8bd0", "up to 50 ms"),
    (200.0, "#d68a1c", "up to 200 ms"),
    (f64::INFINITY, "#cf5a4a", "more"),
];

/// An SVG document.
pub(crate) fn drawing(mesh: &Mesh) -> String {
    let plan = layout(mesh);
    let (width, height) = (plan.width.max(WIDTH_MIN), TITLE_HEIGHT + plan.height + LEGEND_HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"{TEXT}\">\n"
    );
    let title = format!("The mesh as {} sees it: {}", shortened(&mesh.view), summary(mesh));
    svg.push_str(&format!("<title>{}</title>\n", escaped(&title)));
    svg.push_str(&text(Point { x: width / 2.0, y: 26.0 }, "middle", "font-size=\"15\"", &title));
    let left = (width - plan.width) / 2.0;
    svg.push_str(&format!("<g transform=\"translate({left:.1} {TITLE_HEIGHT})\">\n"));
    zones(&mut svg, &plan);
    links(&mut svg, mesh, &plan);
    nodes(&mut svg, mesh, &plan);
    svg.push_str("</g>\n");
    legend(&mut svg, TITLE_HEIGHT + plan.height);
    svg.push_str("</svg>\n");
    svg
}

fn summary(mesh: &Mesh) -> String {
    let up = mesh.links.iter().filter(|link| link.state == LinkState::Up).count();
    let one_sided = mesh.links.len() - up;
    let rest = if one_sided == 0 { String::new() } else { format!(", {one_sided} one-sided") };
    format!("{}, {}{rest}", plural(mesh.nodes.len(), "member"), plural(up, "link"))
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

fn zones(svg: &mut String, plan: &Layout) {
    for zone in &plan.zones {
        let Point { x, y } = zone.middle;
        svg.push_str(&format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\" fill=\"{ZONE}\" fill-opacity=\"0.09\" stroke=\"{ZONE}\" \
             stroke-opacity=\"0.5\"/>\n",
            zone.radius
        ));
        let above = Point { x, y: y - zone.radius - 6.0 };
        svg.push_str(&text(above, "middle", "font-size=\"14\" font-weight=\"bold\"", &shortened(&zone.name)));
    }
}

fn links(svg: &mut String, mesh: &Mesh, plan: &Layout) {
    let spot = |device: &str| {
        let place = mesh.nodes.iter().position(|node| node.device == device)?;
        Some(plan.spots[place].at)
    };
    let is_labelled = mesh.links.len() <= LABELLED_MAX;
    let mut taken: Vec<Point> = plan.spots.iter().map(|spot| spot.at).collect();
    let (thin, alpha) = if mesh.links.len() > BOLD_MAX { (1.0, 0.45) } else { (1.8, 0.8) };
    let mut labels = String::new();
    for link in &mesh.links {
        let (Some(a), Some(b)) = (spot(&link.a), spot(&link.b)) else { continue };
        let dashes = if link.state == LinkState::OneSided { " stroke-dasharray=\"4 5\"" } else { "" };
        let width = if link.cut_off.is_some() { thin * 2.5 } else { thin };
        svg.push_str(&format!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{}\" stroke-width=\"{width}\" \
             stroke-opacity=\"{alpha}\"{dashes}><title>{}</title></line>\n",
            a.x,
            a.y,
            b.x,
            b.y,
            colour(link),
            escaped(&sentence(link))
        ));
        // What only one end says of a link may be long past.
        if is_labelled && link.state == LinkState::Up {
            let words = label(link);
            let width = words.chars().count() as f64 * LETTER * LABEL_LETTERS;
            // Where there is no place left, what the link is like is told where the pointer rests.
            if let Some(at) = free_place([a, b], width, &mut taken) {
                labels.push_str(&text(at, "middle", "font-size=\"10\"", &words));
            }
        }
    }
    svg.push_str(&labels);
}

/// A place on a line for a label that is so wide, away from dots and other labels. It is taken from then on.
fn free_place([a, b]: [Point; 2], width: f64, taken: &mut Vec<Point>) -> Option<Point> {
    let places =
        LABEL_AT.iter().map(|share| Point { x: a.x + (b.x - a.x) * share, y: a.y + (b.y - a.y) * share - 3.0 });
    // Labels are about as wide as each other.
    let is_free =
        |at: &Point| taken.iter().all(|other| (other.x - at.x).abs() > width || (other.y - at.y).abs() > LABEL_HEIGHT);
    let at = places.into_iter().find(is_free)?;
    taken.push(at);
    Some(at)
}

fn colour(link: &Link) -> &'static str {
    let of = |millis: f64| ROUND_TRIPS.iter().find(|(most, ..)| millis <= *most).map(|(_, colour, _)| *colour);
    link.rtt_ms.filter(|_| link.state == LinkState::Up).and_then(of).unwrap_or(UNMEASURED)
}

fn nodes(svg: &mut String, mesh: &Mesh, plan: &Layout) {
    let level = |node: &Node| mesh.nodes.iter().filter(|other| other.zone == node.zone).count() <= LEVEL_MAX;
    for (node, spot) in mesh.nodes.iter().zip(&plan.spots) {
        let zone = node.zone.as_deref().unwrap_or("-");
        let words = format!("{} ({zone}): {}, {}", node.name, node.state.word(), plural(node.links, "link"));
        svg.push_str(&format!("<g><title>{}</title>\n{}", escaped(&words), dot(spot.at, node.state)));
        svg.push_str(&name(spot, &shortened(&node.name), level(node)));
        svg.push_str("</g>\n");
    }
}

/// A member's sign by its state.
fn dot(Point { x, y }: Point, state: State) -> String {
    let style = match state {
        State::Here => "fill=\"#3b8bd0\" stroke=\"#3b8bd0\" stroke-width=\"5\" stroke-opacity=\"0.4\"",
        State::Linked => "fill=\"#2f8f6f\"",
        State::Reached => "fill=\"#9aa2ac\"",
        State::Away => "fill=\"none\" stroke=\"#cf5a4a\" stroke-width=\"1.8\" stroke-dasharray=\"3 2\"",
    };
    format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{DOT}\" {style}/>\n")
}

/// A name outside of its ring: level where there is room, else turned with the ring so that it can be read from the left.
fn name(spot: &Spot, name: &str, is_level: bool) -> String {
    let (cos, sin) = (spot.outward.cos(), spot.outward.sin());
    let at = Point { x: spot.at.x + NAME_GAP * cos, y: spot.at.y + NAME_GAP * sin };
    if is_level {
        let anchor = match cos {
            ..-0.3 => "end",
            0.3.. => "start",
            _ => "middle",
        };
        // The baseline is below the middle of the letters.
        return text(Point { x: at.x, y: at.y + 4.0 + 6.0 * sin }, anchor, "", name);
    }
    let (anchor, turn) = if cos < 0.0 { ("end", 180.0) } else { ("start", 0.0) };
    let degrees = spot.outward.to_degrees() + turn;
    let turned = format!("transform=\"rotate({degrees:.1} {:.1} {:.1})\" dy=\"4\"", at.x, at.y);
    text(at, anchor, &turned, name)
}

fn legend(svg: &mut String, top: f64) {
    let mut x = 24.0;
    for state in State::ALL {
        svg.push_str(&dot(Point { x, y: top + 24.0 }, state));
        svg.push_str(&text(Point { x: x + 12.0, y: top + 28.0 }, "start", "", state.word()));
        x += 90.0;
    }
    let y = top + 24.0;
    svg.push_str(&format!(
        "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{UNMEASURED}\" stroke-width=\"4.5\"/>\n",
        x + 22.0
    ));
    svg.push_str(&text(Point { x: x + 28.0, y: y + 4.0 }, "start", "", "nothing else leads there"));
    let lines = ROUND_TRIPS.iter().map(|(_, colour, words)| (*colour, *words, ""));
    let others = [(UNMEASURED, "one-sided", " stroke-dasharray=\"4 5\"")];
    x = 18.0;
    for (colour, words, dashes) in lines.chain(others) {
        let y = top + 54.0;
        svg.push_str(&format!(
            "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>\n",
            x + 22.0
        ));
        svg.push_str(&text(Point { x: x + 28.0, y: y + 4.0 }, "start", "", words));
        x += 44.0 + words.chars().count() as f64 * LETTER;
    }
}

fn text(Point { x, y }: Point, anchor: &str, style: &str, words: &str) -> String {
    let words = escaped(words);
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{words}</text>\n")
}

/// A name that is not too long for its place.
fn shortened(name: &str) -> String {
    match name.chars().count() > LETTERS_MAX {
        true => name.chars().take(LETTERS_MAX - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

/// A text in XML, which holds no control characters, not even escaped (XML 1.0, 2.2).
fn escaped(words: &str) -> String {
    let mut escaped = String::with_capacity(words.len());
    for c in words.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')) {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::tests::{many, mesh, node};
    use super::*;

    /// Whether each element that begins ends, in order, and every attribute and text is as XML has it.
    #[track_caller]
    fn is_well_formed(svg: &str) {
        let mut open = Vec::new();
        let mut rest = svg;
        while let Some(at) = rest.find('<') {
            let between = &rest[..at];
            assert!(!between.contains('>') && is_escaped(between), "{between:?}");
            let end = at + rest[at..].find('>').expect("a tag ends");
            let tag = &rest[at + 1..end];
            assert!(tag.matches('"').count().is_multiple_of(2) && is_escaped(tag) && !tag.contains('<'), "{tag:?}");
            match (tag.strip_prefix('/'), tag.ends_with('/')) {
                (Some(name), _) => assert_eq!(open.pop(), Some(name)),
                (None, true) => {}
                (None, false) => open.push(tag.split(' ').next().expect("a name")),
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
    }

    fn is_escaped(text: &str) -> bool {
        let entities = ["&amp;", "&lt;", "&gt;", "&quot;"];
        text.match_indices('&').all(|(at, _)| entities.iter().any(|entity| text[at..].starts_with(entity)))
    }

    #[test]
    fn a_fleet_of_any_size_is_one_well_formed_document_with_every_member_and_link() {
        for zones in [&[1][..], &[5], &[3, 2], &[20, 20, 20, 20, 20], &[100], &[1, 50, 2, 9]] {
            let mesh = many(zones, 7);
            let svg = drawing(&mesh);
            is_well_formed(&svg);
            assert!(mesh.nodes.iter().all(|node| svg.contains(&format!(">{}</text>", node.name))));
            assert_eq!(svg.matches("<line ").count(), mesh.links.len() + ROUND_TRIPS.len() + 2);
            assert_eq!(svg, drawing(&mesh), "the same twice");
        }
    }

    #[test]
    fn names_of_devices_and_zones_are_text() {
        let hostile = "<script>&\"'\u{1b}[2J\u{0}";
        let svg = drawing(&mesh(vec![node(hostile, hostile, State::Linked)], &[]));
        is_well_formed(&svg);
        assert!(!svg.contains("<script>") && !svg.contains('\u{1b}'), "{svg}");
        let long = "n".repeat(90);
        let svg = drawing(&mesh(vec![node(&long, "lab", State::Linked)], &[]));
        assert!(svg.contains(&format!(">{}…</text>", "n".repeat(LETTERS_MAX - 1))), "{svg}");
    }

    #[test]
    fn labels_stand_on_no_dot_and_on_no_other() {
        let line = [Point { x: 0.0, y: 0.0 }, Point { x: 300.0, y: 0.0 }];
        let mut taken = vec![line[0], line[1]];
        let places: Vec<Point> = std::iter::from_fn(|| free_place(line, 40.0, &mut taken)).collect();
        assert!((3..=6).contains(&places.len()), "{places:?}");
        let apart = |number: usize| taken[..number].iter().all(|other| (other.x - taken[number].x).abs() > 40.0);
        assert!((1..taken.len()).all(apart), "{taken:?}");
    }

    #[test]
    fn links_that_do_not_count_are_dashed_and_those_that_all_hangs_on_are_thick() {
        let nodes = || ["a", "b"].map(|name| node(name, "lab", State::Linked)).into();
        let mut mesh = mesh(nodes(), &[("a", "b")]);
        let line = |mesh: &Mesh| drawing(mesh).lines().find(|line| line.starts_with("<line ")).map(str::to_owned);
        let plain = line(&mesh).expect("a line");
        assert!(plain.contains("#2f8f6f") && !plain.contains("dash") && plain.contains("1.8"), "{plain}");
        mesh.links[0].cut_off = Some(1);
        let thick = line(&mesh).expect("a line");
        assert!(thick.contains("\"4.5\"") && thick.contains("without it 1 are cut off"), "{thick}");
        mesh.links[0].state = LinkState::OneSided;
        assert!(line(&mesh).expect("a line").contains("stroke-dasharray"));
        mesh.links[0] = Link { state: LinkState::Up, rtt_ms: Some(120.0), ..mesh.links[0].clone() };
        assert!(line(&mesh).expect("a line").contains("#d68a1c"));
    }
}
