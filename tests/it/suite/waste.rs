//! No request is wasted: how many it takes to tell a bad ID from good ones, and to retry failed rows.

use std::{collections::HashMap, time::Duration};

use audio_cache_sweeper::{
    model::{backoff::Backoff, deletion::State, outcome::Cause},
    pace::RateLimit,
    sandbox::Options,
};

use super::{
    bed::{Bed, Plan},
    engine::{Engine, Outcome, Request, Row},
    tests,
};

/// Each agent deletes this many entries. The API rejects those at the given positions. Returns how many requests each agent
/// took.
async fn halved<E: Engine>(concurrency: usize, entries: usize, agents: &[Vec<usize>]) -> Vec<usize> {
    let sandbox = Options { numeric_ids: true, ..Plan::default().sandbox };
    let mut plan = Plan { sandbox, ..Plan::default() };
    plan.settings.concurrency = concurrency;
    let mut bed = Bed::<E>::new(plan).await;
    let rows: Vec<(String, String)> = agents
        .iter()
        .enumerate()
        .flat_map(|(agent, bad)| {
            (0..entries).map(move |at| {
                let entry = if bad.contains(&at) { format!("bad-{at}") } else { at.to_string() };
                (agent.to_string(), entry)
            })
        })
        .collect();
    let rows: Vec<(&str, &str)> = rows.iter().map(|(agent, entry)| (agent.as_str(), entry.as_str())).collect();
    bed.insert(&rows).await;
    bed.work().await;
    let bad: usize = agents.iter().map(Vec::len).sum();
    let rejected =
        |row: &Row| row.is(State::Dead) && row.last_cause == Some(Cause::Rejected) && row.entry.starts_with("bad-");
    assert_eq!(bed.count_where(rejected).await, bad);
    let saved = bed.count_where(|row| row.is(State::Deleted) && row.attempts == 1).await;
    assert_eq!(saved, rows.len() - bad, "all others are saved");
    let mut requests = vec![0; agents.len()];
    for agent in bed.agents() {
        requests[agent.parse::<usize>().unwrap()] += 1;
    }
    requests
}

pub async fn one_bad_id_among_twenty_costs_eleven_requests_at_the_most_wherever_it_is<E: Engine>() {
    let positions: Vec<Vec<usize>> = (0..20).map(|bad| vec![bad]).collect();
    for concurrency in [1, 8] {
        let requests = halved::<E>(concurrency, 20, &positions).await;
        assert!(requests.iter().all(|requests| *requests <= 11), "{requests:?}");
    }
}

pub async fn two_bad_ids_among_twenty_cost_eighteen_requests_at_the_most_wherever_they_are<E: Engine>() {
    let pairs: Vec<Vec<usize>> = (0..20).flat_map(|one| (one + 1..20).map(move |other| vec![one, other])).collect();
    assert_eq!(pairs.len(), 190);
    for concurrency in [1, 8] {
        let requests = halved::<E>(concurrency, 20, &pairs).await;
        let (worst, pair) = requests.iter().zip(&pairs).max().unwrap();
        assert!(*worst <= 18, "{worst} requests for {pair:?} at concurrency {concurrency}");
    }
}

/// The halves of several rejected requests share a lane, so a request may have rows of two of them. That saves a request in one
/// place and costs one in another.
pub async fn one_bad_id_in_each_of_several_requests_costs_eleven_more_requests_each_at_the_most<E: Engine>() {
    let mut rng = fastrand::Rng::with_seed(7);
    for concurrency in [1, 8] {
        let agents: Vec<Vec<usize>> = (0..60)
            .map(|agent| (0..3).take(1 + agent % 3).map(|request| request * 20 + rng.usize(..20)).collect())
            .collect();
        let requests = halved::<E>(concurrency, 60, &agents).await;
        for (requests, bad) in requests.iter().zip(&agents) {
            assert!(*requests <= 3 + 11 * bad.len(), "{requests} requests for {bad:?} at concurrency {concurrency}");
        }
    }
}

/// How many requests a run took, and how many it needed at least.
#[derive(Debug)]
struct Cost {
    sent: usize,
    /// The least, if each agent sent all its first attempts twenty at a time, then all its second attempts, and so on.
    by_rounds: usize,
    /// The least, if it were known in advance which attempts fail: see [`fewest`].
    by_windows: usize,
}

/// When an attempt could have been made, in milliseconds: from the time that the schedule gives, to the latest time that it
/// allows.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: i64,
    to: i64,
}

/// The fewest requests of twenty rows that meet all these windows: whenever a window is about to end, a request leaves with the
/// open windows that end first.
fn fewest(mut windows: Vec<Window>) -> usize {
    let mut requests = 0;
    windows.sort_by_key(|window| window.to);
    while let Some(Window { to, .. }) = windows.first().copied() {
        let mut room = 20;
        windows.retain(|window| {
            let goes = room > 0 && window.from <= to;
            room -= usize::from(goes);
            !goes
        });
        requests += 1;
    }
    requests
}

/// Deletes `rows` entries of several agents. Each attempt fails with a probability of a fifth. The clock advances whenever the
/// worker waits. The least numbers of requests are computed from the attempts that were made.
async fn retried<E: Engine>(agents: usize, rows: usize, concurrency: usize, rate: RateLimit, seed: u64) -> Cost {
    let sandbox = Options { fail_ratio: 0.2, seed, ..Plan::default().sandbox };
    let mut plan = Plan { sandbox, rate, ..Plan::default() };
    let (linger, backoff) =
        (Duration::from_millis(500), Backoff::new(Duration::from_secs(10), Duration::from_secs(3_600)).unwrap());
    plan.settings.concurrency = concurrency;
    plan.settings.linger = linger;
    plan.settings.policy.max_attempts = 20;
    plan.settings.policy.retry = backoff;
    let mut bed = Bed::<E>::new(plan).await;
    let rows: Vec<(String, String)> =
        (0..rows).map(|row| (format!("agent-{}", row % agents), row.to_string())).collect();
    let rows: Vec<(&str, &str)> = rows.iter().map(|(agent, entry)| (agent.as_str(), entry.as_str())).collect();
    bed.insert(&rows).await;
    loop {
        bed.work().await;
        let Some(wait) = bed.worker.turn().await.unwrap().wait else { break };
        bed.clock.advance(wait.max(Duration::from_millis(1)));
    }
    assert_eq!(bed.count_in(State::Deleted).await, rows.len());
    let requests: HashMap<i64, Request> =
        bed.requests().await.into_iter().map(|request| (request.id, request)).collect();
    let mut before: HashMap<i64, (u32, i64)> = HashMap::new();
    let mut rounds: HashMap<(String, u32), usize> = HashMap::new();
    let mut windows: HashMap<String, Vec<Window>> = HashMap::new();
    for Outcome { request, row, .. } in bed.outcomes().await {
        let request = &requests[&request];
        let (agent, claimed_at, answered_at) =
            (request.agent.clone(), request.claimed_at.0, request.answered_at.unwrap().0);
        let (attempt, failed_at) = before.get(&row).copied().unwrap_or_default();
        let window = if attempt == 0 {
            Window { from: 0, to: claimed_at }
        } else {
            let delay = backoff.delay(attempt);
            let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap();
            let from = failed_at + millis(delay);
            // The attempt is later than its jitter only if the rate or other rows delayed it.
            let to = claimed_at.max(from + millis(delay / 4));
            assert!(claimed_at >= from, "never earlier than the schedule");
            Window { from, to }
        };
        windows.entry(agent.clone()).or_default().push(window);
        *rounds.entry((agent, attempt)).or_default() += 1;
        before.insert(row, (attempt + 1, answered_at));
    }
    let by_windows = windows.into_values().map(fewest).sum();
    Cost { sent: bed.sizes().len(), by_rounds: rounds.values().map(|rows| rows.div_ceil(20)).sum(), by_windows }
}

#[test]
fn the_fewest_requests_are_counted_as_one_would_by_hand() {
    let windows = |windows: &[(i64, i64, usize)]| {
        windows.iter().flat_map(|&(from, to, rows)| vec![Window { from, to }; rows]).collect()
    };
    assert_eq!(fewest(windows(&[])), 0);
    assert_eq!(fewest(windows(&[(0, 5, 10), (5, 9, 10)])), 1, "they meet at 5");
    assert_eq!(fewest(windows(&[(0, 5, 10), (6, 9, 10)])), 2);
    assert_eq!(fewest(windows(&[(0, 5, 10), (5, 9, 11)])), 2);
    assert_eq!(fewest(windows(&[(0, 5, 21), (0, 9, 19)])), 2);
}

pub async fn rows_that_failed_here_and_there_come_back_in_requests_that_are_full<E: Engine>() {
    for agents in [1, 7] {
        for concurrency in [1, 8] {
            let cost = retried::<E>(agents, 2_000, concurrency, Plan::default().rate, 7).await;
            assert!(cost.sent * 10 <= cost.by_rounds * 11, "{agents} agents, concurrency {concurrency}: {cost:?}");
        }
    }
}

/// This rate spreads the first attempts over half a minute, so the retries of one round are due too far apart to share requests.
/// The measure is what the schedule allows at best.
pub async fn rows_that_failed_over_a_while_come_back_in_as_few_requests_as_the_schedule_allows<E: Engine>() {
    let rate = RateLimit { requests_per_second: 5.0, burst: 5.try_into().unwrap() };
    for agents in [1, 7] {
        for concurrency in [1, 8] {
            let cost = retried::<E>(agents, 2_000, concurrency, rate, 7).await;
            assert!(cost.sent * 10 <= cost.by_windows * 11, "{agents} agents, concurrency {concurrency}: {cost:?}");
        }
    }
}

tests!($ waste:
    one_bad_id_among_twenty_costs_eleven_requests_at_the_most_wherever_it_is,
    two_bad_ids_among_twenty_cost_eighteen_requests_at_the_most_wherever_they_are,
    one_bad_id_in_each_of_several_requests_costs_eleven_more_requests_each_at_the_most,
    rows_that_failed_here_and_there_come_back_in_requests_that_are_full,
    rows_that_failed_over_a_while_come_back_in_as_few_requests_as_the_schedule_allows,
);
