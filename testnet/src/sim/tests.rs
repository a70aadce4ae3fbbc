use super::*;

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let plan = |seed| Scenario::load("byzantine").unwrap().plan(seed).unwrap();
    let (one, again, other) = (run(&plan(1), None, None), run(&plan(1), None, None), run(&plan(2), None, None));
    assert_eq!(one.trace, again.trace);
    assert_ne!(one.trace, other.trace);
}

#[test]
fn hosts_that_choose_their_links_are_one_mesh_and_heal_and_one_seed_decides_that_too() {
    let mut scenario = Scenario { topology: "lab-25".to_owned(), ..Scenario::load("mesh").unwrap() };
    // Nobody links with a device that was removed, or has yet to join.
    (scenario.work.joins, scenario.work.removals) = (0.0, 0.0);
    let plan = scenario.plan(1).unwrap();
    assert!(plan.topology.lines.is_empty() && plan.ground.is_some());
    let (one, again) = (run(&plan, None, None), run(&plan, None, None));
    assert_eq!(one.trace, again.trace);
    assert_eq!(one.violations, []);
    let samples = &one.stats.measured.samples;
    let (first, last) = (samples.first().unwrap(), samples.last().unwrap());
    assert!(first.connected == 1 && last.connected == last.up && last.up == 25, "{last:?}");
    assert!(samples.iter().any(|sample| sample.at_us > 5_000_000 && sample.connected < sample.up), "some were cut off");
    assert!(last.most_links <= 16 && last.links >= 12 * last.up / 2, "{last:?}");
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn who_watches_changes_nothing() {
    let plan = Scenario::load("calm").unwrap().plan(3).unwrap();
    let mut seen = 0;
    let mut watch = |_| seen += 1;
    assert_eq!(run(&plan, None, Some(&mut watch)).trace, run(&plan, None, None).trace);
    assert!(seen > 1_000, "{seen}");
}

#[test]
fn every_oracle_catches_the_node_that_is_broken_for_it() {
    for (mutant, oracle, about) in MUTANTS {
        assert!(mutant::hunt(mutant, oracle).is_some(), "not caught by {oracle:?}: {about}");
    }
    for seed in 1..=6 {
        let plan =
            Scenario::parse("mutants", include_str!("../../scenarios/mutants.toml")).unwrap().plan(seed).unwrap();
        assert_eq!(run(&plan, None, None).violations, [], "seed {seed}, with nothing broken");
    }
}

#[test]
fn what_failed_once_holds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let plan: Plan = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(run(&plan, None, None).violations, [], "{}", path.display());
        }
    }
}

#[test]
fn a_failing_plan_is_made_smaller_and_fails_as_before() {
    let scenario = Scenario::parse("mutants", include_str!("../../scenarios/mutants.toml")).unwrap();
    let plan = Plan { bound_ms: 10, ..scenario.plan(1).unwrap() };
    let oracle = verdict::Oracle::HealsInTime;
    assert!(run(&plan, None, None).violations.iter().any(|violation| violation.oracle == oracle));
    let small = shrink::shrink(plan.clone(), oracle, |_| {});
    assert!(small.steps.len() < plan.steps.len() / 10, "{} of {} steps", small.steps.len(), plan.steps.len());
    assert!(run(&small, None, None).violations.iter().any(|violation| violation.oracle == oracle));
}

#[test]
fn a_plan_survives_being_a_file() {
    let plan = Scenario::load("storm").unwrap().plan(1).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn scenarios_that_cannot_be_say_why() {
    let parse = |text: &str| Scenario::parse("x", text).map(|_| ()).unwrap_err().to_string();
    assert!(Scenario::load("nonsense").unwrap_err().to_string().contains("storm"));
    let mut storm = Scenario::load("storm").unwrap();
    assert!(storm.without(&["cats".to_owned()]).unwrap_err().to_string().contains("cuts"));
    storm.without(&["cuts".to_owned()]).unwrap();
    assert!(storm.plan(1).unwrap().steps.iter().all(|(_, step)| !matches!(step, plan::Step::Cut { .. })));
    assert!(parse("topology = 'lan-12'\nminutes = 0").contains("minutes"));
    assert!(parse("topology = 'lan-12'\nminutes = 1\n[faults]\ncats = 1").contains("cats"));
    let huge = Scenario::parse("x", "topology = 'lan-12'\nminutes = 600\n[work]\ntelemetry = 1000.0").unwrap();
    assert!(huge.plan(1).unwrap_err().to_string().contains("steps"));
}
