//! Properties against an independent model, and the cases that people ask about.

use proptest::prelude::*;

use super::*;

const INTERVAL_MS: u64 = 10_000;

fn readings(values: &[(&str, Value)]) -> BTreeMap<String, Value> {
    values.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn at_s(seconds: u64) -> Time {
    Time(seconds * 1_000_000)
}

fn hottest(milli_celsius: i64) -> BTreeMap<String, Value> {
    readings(&[("temperature.hottest_milli_celsius", Value::Int(milli_celsius))])
}

fn environment() -> Significance {
    Significance::new(Kind::Environment, INTERVAL_MS)
}

#[test]
fn the_interval_follows_the_fleet() {
    let interval = |devices| interval_ms(devices, TELEMETRY_BYTES_PER_S, INTERVAL_MS_MIN);
    assert_eq!(interval(5), 10_000);
    assert_eq!(interval(100), 16_500);
    assert_eq!(interval(1_000), 165_000, "under three minutes");
    assert_eq!(interval_ms(5, TELEMETRY_BYTES_PER_S, 1), 825);
    assert_eq!(interval_ms(0, 0, 1), 1);
    assert_eq!(interval_ms(u64::MAX, 0, 1), u64::MAX);
}

#[test]
fn the_first_collection_writes_all_and_the_dead_band_nothing() {
    let mut state = environment();
    assert_eq!(state.handle(at_s(0), hottest(50_000)).map(|edits| edits.len()), Some(1));
    assert_eq!(state.handle(at_s(20), hottest(50_999)), None);
    assert_eq!(state.handle(at_s(40), hottest(49_001)), None);
    assert_eq!(state.poll_timeout(), None, "idle");
    let edits = state.handle(at_s(60), hottest(51_000)).unwrap();
    assert_eq!(edits, [("temperature.hottest_milli_celsius".to_owned(), Some(Value::Int(51_000)))]);
}

#[test]
fn what_is_significant_waits_for_the_interval() {
    let mut state = environment();
    state.handle(at_s(0), hottest(50_000));
    assert_eq!(state.handle(at_s(3), hottest(60_000)), None);
    assert_eq!(state.poll_timeout(), Some(at_s(10)));
    assert_eq!(state.handle_timeout(Time(9_999_999)), None);
    assert!(state.handle_timeout(at_s(10)).is_some());
    assert_eq!(state.poll_timeout(), None);
    // Back within the band before the interval ends: nothing to say.
    assert_eq!(state.handle(at_s(12), hottest(70_000)), None);
    assert_eq!(state.handle(at_s(15), hottest(60_100)), None);
    assert_eq!(state.handle_timeout(at_s(30)), None);
}

#[test]
fn a_crossing_goes_at_once_and_takes_the_rest_along() {
    let mut state = environment();
    let both = |source: &str, temperature| {
        readings(&[
            ("power.source", text(source)),
            ("thermal.zone0.temperature_milli_celsius", Value::Int(temperature)),
        ])
    };
    state.handle(at_s(0), both("mains", 50_000));
    assert_eq!(state.handle(at_s(1), both("mains", 60_000)), None);
    assert_eq!(state.handle(at_s(2), both("battery", 60_000)).map(|edits| edits.len()), Some(2));
    assert_eq!(state.handle(at_s(11), both("battery", 70_000)), None, "the interval starts anew");
    assert!(state.handle(at_s(12), both("battery", 70_000)).is_some());
    assert_eq!(state.handle(at_s(13), both("unknown", 70_000)), None, "unknown is no crossing");
}

#[test]
fn links_and_limits_cross_in_their_own_documents() {
    let table = [
        (Kind::Device, "interface.eth0.up", true),
        (Kind::Device, "disk.sda.removable", false),
        (Kind::Environment, "temperature.critical", true),
        (Kind::Resource, "temperature.critical", false),
        (Kind::Environment, "power.mains.ac.online", false),
    ];
    for (kind, path, is_crossing) in table {
        let mut state = Significance::new(kind, INTERVAL_MS);
        state.handle(at_s(0), readings(&[(path, Value::Bool(false))]));
        let edits = state.handle(at_s(1), readings(&[(path, Value::Bool(true))]));
        assert_eq!(edits.is_some(), is_crossing, "{path}");
    }
}

#[test]
fn a_flapping_link_is_held_to_six_a_minute() {
    let mut state = Significance::new(Kind::Device, 3_600_000);
    let up = |up| readings(&[("interface.eth0.up", Value::Bool(up))]);
    state.handle(at_s(0), up(true));
    let writes = (1..=59).filter(|second| state.handle(at_s(*second), up(second % 2 == 0)).is_some()).count();
    // Six in the burst and one for each ten seconds; a flap that came back before its token says nothing.
    assert!((6..=11).contains(&writes), "{writes}");
    state.handle(at_s(60), up(!matches!(state.written["interface.eth0.up"], Value::Bool(true))));
    let next = state.poll_timeout();
    assert!(next.is_none_or(|next| next <= at_s(70)), "a token comes every ten seconds: {next:?}");
}

#[test]
fn what_vanishes_is_deleted_after_three_collections() {
    let mut state = environment();
    state.handle(at_s(0), hottest(50_000));
    for second in [20, 40] {
        assert_eq!(state.handle(at_s(second), BTreeMap::new()), None);
    }
    let gone = vec![("temperature.hottest_milli_celsius".to_owned(), None)];
    assert_eq!(state.handle(at_s(60), BTreeMap::new()), Some(gone));
    assert_eq!(state.handle(at_s(80), BTreeMap::new()), None, "once");
    // A reading in between starts the count anew.
    state.handle(at_s(100), hottest(50_000));
    state.handle(at_s(120), BTreeMap::new());
    state.handle(at_s(140), BTreeMap::new());
    state.handle(at_s(160), hottest(50_000));
    assert_eq!(state.handle(at_s(180), BTreeMap::new()), None);
    assert_eq!(state.handle(at_s(200), BTreeMap::new()), None);
}

#[test]
fn what_could_not_be_written_is_pending_again() {
    let mut state = environment();
    state.handle(at_s(0), hottest(50_000));
    let edits = state.handle(at_s(20), hottest(60_000));
    state.not_written();
    assert_eq!(state.poll_timeout(), Some(at_s(30)), "with the next interval");
    assert_eq!(state.handle_timeout(at_s(30)), edits);
    for second in [40, 60, 80] {
        state.handle(at_s(second), BTreeMap::new());
    }
    state.not_written();
    assert_eq!(state.handle_timeout(at_s(90)).map(|edits| edits[0].1.clone()), Some(None), "deleted again");
    let mut fresh = environment();
    let first = fresh.handle(at_s(0), hottest(50_000));
    fresh.not_written();
    assert_eq!(fresh.handle_timeout(at_s(10)), first);
}

#[test]
fn a_restart_writes_only_what_changed() {
    let mut written = hottest(50_000);
    written.insert("thermal.zone9.temperature_milli_celsius".to_owned(), Value::Int(1));
    let mut state = Significance::resume(Kind::Environment, INTERVAL_MS, written);
    assert_eq!(state.handle(at_s(5), hottest(50_500)), None);
    state.handle(at_s(6), hottest(50_500));
    let edits = state.handle(at_s(7), hottest(50_500));
    assert_eq!(edits, Some(vec![("thermal.zone9.temperature_milli_celsius".to_owned(), None)]));
}

#[test]
fn a_document_has_so_many_values_and_no_more() {
    let many = (0..VALUES_MAX + 500).map(|number| (format!("value.n{number:05}"), Value::Bool(true))).collect();
    assert_eq!(environment().handle(at_s(0), many).map(|edits| edits.len()), Some(VALUES_MAX));
}

#[test]
fn dead_bands_by_unit() {
    let context = readings(&[
        ("memory.total_bytes", Value::Uint(1_000_000)),
        ("filesystem.root.total_bytes", Value::Uint(5_000)),
        ("network.eth0.speed_megabits_per_s", Value::Uint(1_000)),
        ("power.battery.bat0.energy_full_milliwatt_hours", Value::Uint(52_000)),
    ]);
    let table = [
        ("cpu.temperature_milli_celsius", 50_000, 1_000),
        ("cpu.utilisation_permille", 500, 50),
        ("memory.used_bytes", 1, 10_000),
        ("memory.available_bytes", 1, 10_000),
        ("filesystem.root.used_bytes", 1, 50),
        ("swap.used_bytes", 5_000, 50),
        ("network.eth0.receive_bytes_per_s", 0, 1_250_000),
        ("disk.sda.read_bytes_per_s", 0, 65_536),
        ("power.battery.bat0.capacity_percent", 80, 1),
        ("power.battery.bat0.energy_milliwatt_hours", 40_000, 520),
        ("hwmon.pwmfan-2.fan1.speed_rpm", 4_000, 200),
        ("power.battery.bat0.power_milliwatt", 4_000, 500),
        ("cpu.load_1m_milli", 100, 250),
        ("memory.total_bytes", 1_000_000, 1),
    ];
    for (path, old, expected) in table {
        assert_eq!(band(path, old, &context), expected, "{path}");
    }
}

/// One collection of a random machine: what each sensor says, if anything.
#[derive(Debug, Clone)]
struct Step {
    after_ms: u64,
    temperature: Option<i64>,
    utilisation: Option<u64>,
    source: Option<&'static str>,
    critical: Option<bool>,
}

impl Step {
    fn readings(&self) -> BTreeMap<String, Value> {
        let values = [
            ("cpu.temperature_milli_celsius", self.temperature.map(Value::Int)),
            ("cpu.utilisation_permille", self.utilisation.map(Value::Uint)),
            ("power.source", self.source.map(text)),
            ("temperature.critical", self.critical.map(Value::Bool)),
        ];
        values.into_iter().filter_map(|(path, value)| Some((path.to_owned(), value?))).collect()
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let often = proptest::option::weighted(0.9, 40_000_i64..43_000);
    let source =
        prop_oneof![6 => Just(Some("mains")), 6 => Just(Some("battery")), 1 => Just(Some("unknown")), 1 => Just(None)];
    let step =
        (1_u64..6_000, often, proptest::option::weighted(0.9, 0_u64..120), source, proptest::option::of(any::<bool>()));
    let step = step.prop_map(|(after_ms, temperature, utilisation, source, critical)| Step {
        after_ms,
        temperature,
        utilisation,
        source,
        critical,
    });
    proptest::collection::vec(step, 1..80)
}

/// What must hold, kept apart from the code under test.
struct Model {
    written: BTreeMap<String, Value>,
    last_write_ms: Option<u64>,
    tokens_ms: u64,
    tokens_at_ms: u64,
}

impl Model {
    const MINUTE_MS: u64 = 60_000;

    fn crosses(&self, readings: &BTreeMap<String, Value>) -> bool {
        let pair = |path: &str| Some((self.written.get(path)?.clone(), readings.get(path)?.clone()));
        let power = pair("power.source")
            .is_some_and(|(a, b)| a != b && ![&a, &b].iter().any(|value| **value == text("unknown")));
        power || pair("temperature.critical").is_some_and(|(a, b)| a != b)
    }

    fn is_near(path: &str, a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Int(a), Value::Int(b)) => a.abs_diff(*b) < 1_000,
            (Value::Uint(a), Value::Uint(b)) => a.abs_diff(*b) < 50,
            _ => {
                assert!(path == "power.source" || path == "temperature.critical");
                a == b
            }
        }
    }

    /// Checks one answer of the code under test and takes it over.
    fn check(&mut self, now_ms: u64, readings: &BTreeMap<String, Value>, edits: Option<Edits>) {
        self.tokens_ms = (self.tokens_ms + now_ms - self.tokens_at_ms).min(Self::MINUTE_MS);
        self.tokens_at_ms = now_ms;
        let is_early = self.last_write_ms.is_some_and(|last| now_ms < last + INTERVAL_MS);
        let crosses = self.crosses(readings);
        let Some(edits) = edits else {
            assert!(!(crosses && self.tokens_ms >= 10_000), "a crossing goes at once while the bucket lasts");
            return;
        };
        assert!(!edits.is_empty());
        if is_early {
            assert!(crosses, "no two writes within an interval without a crossing");
            assert!(self.tokens_ms >= 10_000, "no crossing beyond the bucket");
            self.tokens_ms -= 10_000;
        }
        for (path, value) in edits {
            match value {
                Some(value) => {
                    assert_eq!(readings.get(&path), Some(&value), "only what was read is written");
                    let old = self.written.insert(path.clone(), value.clone());
                    assert!(old.is_none_or(|old| !Self::is_near(&path, &old, &value)), "{path} was within its band");
                }
                None => {
                    assert!(!readings.contains_key(&path), "what is there is not deleted");
                    assert!(self.written.remove(&path).is_some(), "what is not there is not deleted");
                }
            }
        }
        self.last_write_ms = Some(now_ms);
    }
}

proptest! {
    #[test]
    fn any_course_of_readings_keeps_the_rules(steps in steps()) {
        let mut state = environment();
        let mut model = Model { written: BTreeMap::new(), last_write_ms: None, tokens_ms: Model::MINUTE_MS, tokens_at_ms: 0 };
        let (mut now_ms, mut current) = (0, BTreeMap::new());
        for step in &steps {
            let next_ms = now_ms + step.after_ms;
            // What is pending is asked for when it says so.
            while let Some(due) = state.poll_timeout().map(|due| due.0.div_ceil(1000).max(now_ms)).filter(|due| *due < next_ms) {
                let edits = state.handle_timeout(Time(due * 1000));
                prop_assert!(edits.is_some(), "a timeout that does nothing would spin");
                model.check(due, &current, edits);
            }
            now_ms = next_ms;
            current = step.readings();
            let edits = state.handle(Time(now_ms * 1000), current.clone());
            model.check(now_ms, &current, edits);
            prop_assert_eq!(&state.written, &model.written);
        }
        for _ in 0..=MISSING_MAX {
            now_ms += INTERVAL_MS;
            let edits = state.handle(Time(now_ms * 1000), current.clone());
            model.check(now_ms, &current, edits);
        }
        prop_assert_eq!(state.poll_timeout(), None, "after quiet time nothing is pending");
        prop_assert!(model.written.keys().eq(current.keys()), "what is gone is deleted");
        for (path, value) in &current {
            prop_assert!(Model::is_near(path, &model.written[path], value), "{} is within its band", path);
        }
    }
}
