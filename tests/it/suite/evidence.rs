//! No verdict without evidence: the smallest inputs that could lead to a verdict that the answers do not support. Over real
//! HTTP, in virtual time.

use std::{collections::BTreeMap, time::Duration};

use audio_cache_sweeper::{
    model::{backoff::Backoff, deletion::State, outcome::Cause},
    sandbox::{Missing, Options, Outage, Poison},
};

use super::{
    bed::{Bed, Plan, listing},
    engine::{Engine, Row, Wish},
    tests,
};

/// The defaults of the configuration that matter here.
pub fn defaults(sandbox: Options) -> Plan {
    let mut plan = Plan { sandbox: Options { ..sandbox }, ..Plan::default() };
    plan.sandbox.key = Plan::default().sandbox.key;
    plan.sandbox.record = true;
    plan.settings.linger = Duration::from_millis(500);
    plan.settings.policy.max_attempts = 8;
    plan.settings.policy.retry = Backoff::new(Duration::from_secs(10), Duration::from_secs(3_600)).unwrap();
    plan.settings.policy.min_retry_after = Duration::from_secs(1);
    plan.growth = Backoff::new(Duration::from_secs(1), Duration::from_secs(600)).unwrap();
    plan
}

/// Takes turns, each at the time that the worker asks for, until it waits for nothing or `seconds` have passed. Returns how many
/// seconds passed.
pub async fn run_for<E: Engine>(bed: &mut Bed<E>, seconds: u64) -> u64 {
    let start = bed.clock.elapsed();
    let end = start + Duration::from_secs(seconds);
    loop {
        bed.work().await;
        let now = bed.clock.elapsed();
        let wait = bed.worker.turn().await.unwrap().wait;
        let Some(wait) = wait.filter(|_| now < end) else { return (now - start).as_secs() };
        bed.clock.advance(wait.clamp(Duration::from_millis(1), end - now));
    }
}

const DAY: u64 = 86_400;

/// How many rows are in each state. A dead row's cause is part of its state here.
async fn states<E: Engine>(bed: &mut Bed<E>) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for row in bed.rows().await {
        let cause = row.last_cause.filter(|_| row.is(State::Dead)).map(|cause| format!(" {}", cause.as_str()));
        *states.entry(row.state.as_str().to_owned() + &cause.unwrap_or_default()).or_default() += 1;
    }
    states
}

fn counts(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected.iter().map(|(state, count)| ((*state).to_owned(), *count)).collect()
}

pub async fn one_id_that_spoils_its_request_ends_alone_and_costs_its_neighbours_nothing<E: Engine>() {
    let cases = [
        (Poison::Status(500), "server_error"),
        (Poison::Status(502), "server_error"),
        (Poison::Status(408), "server_error"),
        (Poison::Status(409), "contract"),
        (Poison::Status(410), "contract"),
        (Poison::Status(412), "contract"),
        (Poison::Status(415), "contract"),
        (Poison::Status(418), "contract"),
        (Poison::Status(520), "contract"),
        (Poison::Status(530), "contract"),
        (Poison::RetryAfter(503, 2), "throttled"),
        (Poison::Reset, "lost"),
        (Poison::Html, "garbled"),
        (Poison::Long, "garbled"),
    ];
    for (poison, cause) in cases {
        for (concurrency, rows, bad) in [(8, 20, 7), (1, 20, 20), (8, 20, 1), (8, 3, 2), (8, 2, 1), (8, 2, 2)] {
            let what = format!("{poison:?}, {bad} of {rows}, concurrency {concurrency}");
            let sandbox = Options { poison: vec![(bad.to_string(), poison)], ..Options::default() };
            let mut plan = defaults(sandbox);
            plan.settings.concurrency = concurrency;
            let mut bed = Bed::<E>::new(plan).await;
            bed.insert_many("a", rows).await;
            let took = run_for(&mut bed, 2 * DAY).await;
            let dead = format!("dead {cause}");
            let expected = counts(&[("deleted", rows - 1), (dead.as_str(), 1)]);
            assert_eq!(states(&mut bed).await, expected, "{what}: {:?} {took} s", bed.sizes());
            assert!(bed.sizes().len() <= 20, "{what}: {:?}", bed.sizes());
        }
    }
}

pub async fn in_an_outage_no_row_is_spent_however_few_there_are<E: Engine>() {
    for outage in [
        Outage::Status(500),
        Outage::Status(409),
        Outage::Status(404),
        Outage::RetryAfter(503, 7),
        Outage::Html,
        Outage::Reset,
        Outage::PoliteFailed,
        Outage::PoliteSilent,
        Outage::Strangers,
    ] {
        for rows in [1, 20, 400] {
            let what = format!("{outage:?}, {rows} rows");
            let mut bed = Bed::<E>::new(defaults(Options { outage: Some(outage), ..Options::default() })).await;
            bed.insert_many("a", rows).await;
            let says_when = matches!(outage, Outage::RetryAfter(..));
            run_for(&mut bed, if says_when { 1_800 } else { DAY / 2 }).await;
            assert_eq!(states(&mut bed).await, counts(&[("pending", rows)]), "{what}");
            // Holds of ten minutes make some six probes an hour, each with a single-entry DELETE at most.
            // A `Retry-After` is obeyed, so such an outage is probed more often.
            assert!(says_when || bed.sizes().len() < 40 + 12 * 14, "{what}: {}", bed.sizes().len());
            bed.sandbox.set_outage(None);
            let took = run_for(&mut bed, DAY).await;
            assert_eq!(states(&mut bed).await, counts(&[("deleted", rows)]), "{what}");
            assert!(took < 3_600 + 800, "{what}: {took} s");
        }
    }
}

pub async fn rejections_of_everything_condemn_as_many_rows_as_make_a_streak<E: Engine>() {
    for status in [400, 413, 422] {
        // One agent with many rows, and many agents with one row each.
        for (agents, rows) in [(1, 200), (200, 1)] {
            let outage = Some(Outage::Status(status));
            let mut bed = Bed::<E>::new(defaults(Options { outage, ..Options::default() })).await;
            for agent in 0..agents {
                bed.insert_many(&format!("agent-{agent}"), rows).await;
            }
            run_for(&mut bed, 3_600).await;
            let dead = bed.count_in(State::Dead).await;
            assert!(dead <= 3, "{status}, {agents} agents: {dead} dead");
            assert_eq!(bed.count_in(State::Pending).await, 200 - dead);
            bed.sandbox.set_outage(None);
            run_for(&mut bed, DAY).await;
            assert_eq!(bed.count_in(State::Deleted).await, 200 - dead, "{status}, {agents} agents");
        }
    }
}

pub async fn a_restored_backup_ends_absent_and_nothing_is_held<E: Engine>() {
    let sandbox = Options { agents: vec![("a".to_owned(), 0)], ..Options::default() };
    let mut bed = Bed::<E>::new(defaults(sandbox)).await;
    bed.insert_many("a", 2_000).await;
    let took = run_for(&mut bed, DAY).await;
    assert_eq!(states(&mut bed).await, counts(&[("absent", 2_000)]));
    assert_eq!(bed.holds().await, []);
    // Eight attempts with their delays: the single-entry DELETE takes the place of the last one.
    let schedule: u64 = [10, 20, 40, 80, 160, 320, 640].iter().sum();
    assert!(took < schedule + schedule / 4 + 120, "{took} s");
    assert!(bed.sizes().len() < 2_000 + 8 * 100 + 40, "{}", bed.sizes().len());
}

pub async fn where_nobody_can_be_asked_the_attempts_go_on_being_counted_one_a_probe<E: Engine>() {
    let sandbox = Options { agents: vec![("a".to_owned(), 0)], ..Options::default() };
    let mut plan = defaults(sandbox);
    plan.settings.policy.ask_singly = false;
    plan.settings.policy.max_attempts = 3;
    let mut bed = Bed::<E>::new(plan).await;
    bed.insert_many("a", 40).await;
    run_for(&mut bed, 5 * DAY).await;
    assert_eq!(states(&mut bed).await, counts(&[("dead api_failed", 40)]));
    assert_eq!(bed.count_where(|row| row.maybe_done && row.attempts == 3).await, 40, "unconfirmed");
}

pub async fn a_gateway_s_404_makes_nothing_absent<E: Engine>() {
    for missing in [Missing::Gateway, Missing::Html, Missing::Empty, Missing::Agent] {
        let sandbox = Options { agents: vec![("a".to_owned(), 0)], single_404: missing, ..Options::default() };
        let mut plan = defaults(sandbox);
        plan.settings.policy.max_attempts = 2;
        let mut bed = Bed::<E>::new(plan).await;
        bed.insert_many("a", 5).await;
        run_for(&mut bed, 5 * DAY).await;
        assert_eq!(bed.count_in(State::Absent).await, 0, "{missing:?}");
        assert_eq!(states(&mut bed).await, counts(&[("dead api_failed", 5)]), "{missing:?}");
        assert_eq!(bed.count_where(|row| row.maybe_done).await, 5, "{missing:?}: unconfirmed");
    }
}

pub async fn malformed_ids_in_any_number_end_and_the_good_ones_behind_them_are_deleted<E: Engine>() {
    for bad_first in [true, false] {
        let mut bed = Bed::<E>::new(defaults(Options { numeric_ids: true, ..Options::default() })).await;
        let bad: Vec<String> = (0..1_000).map(|id| format!("bad-{id}")).collect();
        let bad: Vec<(&str, &str)> = bad.iter().map(|entry| ("a", entry.as_str())).collect();
        if bad_first {
            bed.insert(&bad).await;
            bed.insert_many("a", 1_000).await;
        } else {
            bed.insert_many("a", 1_000).await;
            bed.insert(&bad).await;
        }
        let took = run_for(&mut bed, DAY).await;
        let expected = counts(&[("dead rejected", 1_000), ("deleted", 1_000)]);
        assert_eq!(states(&mut bed).await, expected, "bad first: {bad_first}, {took} s");
        assert!(took < 3_600, "bad first: {bad_first}: {took} s");
    }
}

pub async fn swapped_answers_delete_nothing_that_is_there<E: Engine>() {
    let sandbox = Options { swap_ratio: 0.5, seed: 3, latency: Duration::ZERO, ..Options::default() };
    let mut plan = defaults(sandbox);
    plan.settings.concurrency = 8;
    let mut bed = Bed::<E>::new(plan).await;
    for agent in ["a", "b"] {
        bed.insert_many(agent, 30).await;
    }
    // Both agents have the same IDs, so a swapped answer may list an ID that was not deleted.
    run_for(&mut bed, DAY).await;
    let deleted = bed.rows_where(|row| row.is(State::Deleted)).await;
    assert!(!deleted.is_empty());
    for Row { agent, entry, .. } in &deleted {
        assert!(bed.sandbox.is_gone(agent, entry), "{agent} {entry} is still there");
    }
    assert_eq!(bed.count_in(State::Dead).await, 0);
}

pub async fn an_agent_s_faults_hold_that_agent_and_nobody_else_waits<E: Engine>() {
    for outage in [Outage::Status(500), Outage::Status(409), Outage::Reset, Outage::PoliteFailed, Outage::Status(400)] {
        let mut bed = Bed::<E>::new(defaults(Options::default())).await;
        bed.sandbox.set_agent_outage("broken", Some(outage));
        bed.insert_many("broken", 200).await;
        bed.insert_many("healthy", 20).await;
        run_for(&mut bed, 60).await;
        for row in 0..60 {
            bed.insert(&[("healthy", format!("later-{row}").as_str())]).await;
            run_for(&mut bed, 10).await;
            let late = bed.count_where(|row| row.is(State::Pending) && row.agent == "healthy").await;
            assert_eq!(late, 0, "{outage:?}: row {row} of the healthy agent waits");
        }
        let dead = bed.count_in(State::Dead).await;
        assert!(dead <= 3, "{outage:?}: {dead}");
        bed.sandbox.set_agent_outage("broken", None);
        run_for(&mut bed, DAY).await;
        let deleted = bed.count_where(|row| row.is(State::Deleted) && row.agent == "broken").await;
        assert_eq!(deleted, 200 - dead, "{outage:?}");
    }
}

pub async fn a_crowd_of_held_agents_takes_a_tenth_of_the_permits_at_the_most<E: Engine>() {
    let mut plan =
        defaults(Options { forbidden: (0..300).map(|n| format!("unknown-{n}")).collect(), ..Options::default() });
    plan.rate.requests_per_second = 5.0;
    plan.rate.burst = 5.try_into().unwrap();
    let mut bed = Bed::<E>::new(plan).await;
    for agent in 0..300 {
        bed.insert_many(&format!("unknown-{agent}"), 1).await;
    }
    bed.insert_many("good", 30_000).await;
    run_for(&mut bed, 120).await;
    let before = bed.count_in(State::Deleted).await;
    run_for(&mut bed, 200).await;
    let share = (bed.count_in(State::Deleted).await - before) as f64 / (200.0 * 5.0 * 20.0);
    assert!(share > 0.88, "{share}");
}

pub async fn a_hold_of_an_agent_that_has_no_rows_any_more_is_lifted<E: Engine>() {
    let mut bed =
        Bed::<E>::new(defaults(Options { forbidden: vec!["mistyped".to_owned()], ..Options::default() })).await;
    bed.insert_many("mistyped", 1).await;
    bed.insert_many("other", 1).await;
    run_for(&mut bed, 1).await;
    assert_eq!(bed.held().await, [("mistyped".to_owned(), Cause::Forbidden)]);
    bed.pause("nobody").await;
    bed.remove_where(|row| row.agent == "mistyped").await;
    run_for(&mut bed, 61).await;
    assert_eq!(bed.held().await, [("nobody".to_owned(), Cause::Operator)], "a person's stays");
}

pub async fn a_steady_inflow_of_new_rows_does_not_starve_one_that_failed<E: Engine>() {
    let mut plan = defaults(Options::default());
    plan.rate.requests_per_second = 1.0;
    plan.rate.burst = 1.try_into().unwrap();
    let mut bed = Bed::<E>::new(plan).await;
    bed.sandbox.script([listing(&["2"], &["1"])]);
    bed.insert_many("a", 2).await;
    run_for(&mut bed, 1).await;
    let mut next = 100;
    for second in 0..60 {
        // More rows than the rate can send.
        let created_at = Some(bed.clock.now());
        let wishes = (next..next + 30).map(|id| Wish { created_at, ..Wish::of("a", &id.to_string()) });
        bed.enqueue(&wishes.collect::<Vec<_>>()).await;
        next += 30;
        run_for(&mut bed, 1).await;
        if bed.count_where(|row| row.entry == "1" && row.is(State::Deleted)).await == 1 {
            assert!((9..=40).contains(&second), "{second}");
            return;
        }
    }
    panic!("starved");
}

pub async fn a_restart_begins_no_streak_of_rejections_anew<E: Engine>() {
    let outage = Some(Outage::Status(400));
    let mut bed = Bed::<E>::new(defaults(Options { outage, ..Options::default() })).await;
    for life in 0..6 {
        // As under cron: some rows, and a daemon that soon ends.
        let rows = [(life * 2).to_string(), (life * 2 + 1).to_string()];
        bed.insert(&[("a", rows[0].as_str()), ("a", rows[1].as_str())]).await;
        run_for(&mut bed, 5).await;
        bed = bed.restart().await;
    }
    let dead = bed.count_in(State::Dead).await;
    assert!(dead <= 3, "{dead} dead");
    bed.sandbox.set_outage(None);
    run_for(&mut bed, DAY).await;
    assert_eq!(bed.count_in(State::Deleted).await, 12 - dead);
}

pub async fn rows_of_an_agent_that_all_fail_end_if_others_get_through_for_long_enough<E: Engine>() {
    let poison = ["9001", "9002", "9003"].map(|id| (id.to_owned(), Poison::Status(500)));
    let mut bed = Bed::<E>::new(defaults(Options { poison: poison.into(), ..Options::default() })).await;
    bed.insert(&[("bad", "9001"), ("bad", "9002"), ("bad", "9003")]).await;
    for round in 0..1_000 {
        if bed.pending().await == 0 {
            break;
        }
        bed.insert(&[("healthy", round.to_string().as_str())]).await;
        run_for(&mut bed, 100).await;
    }
    let given_up = |row: &Row| row.is(State::Dead) && row.last_cause == Some(Cause::ServerError) && row.agent == "bad";
    assert_eq!(bed.count_where(given_up).await, 3);
    assert_eq!(bed.count_where(|row| !row.is(State::Deleted) && row.agent == "healthy").await, 0);
}

pub async fn many_agents_whose_entries_are_all_gone_end_without_a_hold<E: Engine>() {
    let agents: Vec<String> = (0..3).map(|agent| format!("agent-{agent}")).collect();
    let gone = agents.iter().map(|agent| (agent.clone(), 0)).collect();
    let mut bed = Bed::<E>::new(defaults(Options { agents: gone, ..Options::default() })).await;
    for agent in &agents {
        bed.insert_many(agent, 400).await;
    }
    let took = run_for(&mut bed, DAY).await;
    assert_eq!(states(&mut bed).await, counts(&[("absent", 1_200)]), "{took} s");
    assert!(took < 3_600, "{took} s");
}

tests!($ evidence:
    one_id_that_spoils_its_request_ends_alone_and_costs_its_neighbours_nothing,
    in_an_outage_no_row_is_spent_however_few_there_are,
    rejections_of_everything_condemn_as_many_rows_as_make_a_streak,
    a_restored_backup_ends_absent_and_nothing_is_held,
    where_nobody_can_be_asked_the_attempts_go_on_being_counted_one_a_probe,
    a_gateway_s_404_makes_nothing_absent,
    malformed_ids_in_any_number_end_and_the_good_ones_behind_them_are_deleted,
    swapped_answers_delete_nothing_that_is_there,
    an_agent_s_faults_hold_that_agent_and_nobody_else_waits,
    a_crowd_of_held_agents_takes_a_tenth_of_the_permits_at_the_most,
    a_hold_of_an_agent_that_has_no_rows_any_more_is_lifted,
    a_steady_inflow_of_new_rows_does_not_starve_one_that_failed,
    a_restart_begins_no_streak_of_rejections_anew,
    rows_of_an_agent_that_all_fail_end_if_others_get_through_for_long_enough,
    many_agents_whose_entries_are_all_gone_end_without_a_hold,
);
