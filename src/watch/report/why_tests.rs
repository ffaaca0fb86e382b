use std::time::Duration;

use super::*;
use crate::{
    model::{
        backoff::Backoff,
        deletion::AgentId,
        limits::{ConcurrencyReason, RateReason},
        outcome::Cause,
    },
    queue::{
        InEffect,
        report::{Daemon, Introduction},
    },
};

const NOW: Timestamp = Timestamp(1_000_000);

fn hold(scope: &str, cause: Cause, until_at: Option<Timestamp>) -> HoldRow {
    let scope = if scope == "*" { Scope::All } else { Scope::Agent(AgentId::parse(scope).unwrap()) };
    HoldRow { scope, cause, since_at: NOW, until_at, repeats: 0, probed_at: None, why: None }
}

fn agent(agent: &str) -> AgentStanding {
    AgentStanding {
        agent: agent.to_owned(),
        pending: 100,
        due: 90,
        in_flight: 20,
        gathering: 5,
        gathers_until: Some(NOW.plus(Duration::from_secs(3))),
        requests: 4,
        next_due_at: Some(NOW.plus(Duration::from_secs(60))),
        ..AgentStanding::default()
    }
}

/// A queue with a daemon, of which so many calls are in flight.
fn working(calls: u64) -> Standing {
    let retry = Backoff::new(Duration::from_secs(1), Duration::from_secs(2)).unwrap();
    let linger = Duration::from_secs(1);
    let in_effect = Some(InEffect {
        requests_per_second: 2.0,
        rate_ceiling: 2.0,
        rate_reason: RateReason::Ceiling,
        concurrency: 8,
        concurrency_ceiling: 8,
        concurrency_reason: ConcurrencyReason::Ceiling,
        batch_size: 20,
        linger,
        retry,
        learnt: None,
    });
    let introduction = Some(Introduction { version: "1".to_owned(), started_at: NOW, in_effect });
    let daemon = Daemon { running: Some(true), pid: Some(1), introduction, leadership: None };
    Standing { daemon, calls, agents: vec![agent("a"), agent("b")], pending: 200, ..Standing::default() }
}

fn told(standing: &Standing) -> Vec<(Reason, u64)> {
    let waits = waits_of(&standing.agents[0], standing, &HoldsByScope::new(&standing.holds), NOW);
    waits.iter().map(|wait| (wait.reason, wait.rows)).collect()
}

#[test]
fn each_pending_row_has_one_reason() {
    use Reason::{Concurrency, Daemon, DueLater, Gathering, InFlight, NoDaemon, Rate};
    let rest = [(Gathering, 5), (InFlight, 20), (DueLater, 10)];
    for (change, reason) in [
        (&(|_: &mut Standing| {}) as &dyn Fn(&mut Standing), Rate),
        (&|standing| standing.calls = 8, Concurrency),
        (&|standing| standing.daemon.running = Some(false), NoDaemon),
        (&|standing| standing.daemon.introduction = None, Daemon),
    ] {
        let mut standing = working(1);
        change(&mut standing);
        assert_eq!(told(&standing), [[(reason, 65)].as_slice(), &rest].concat());
    }
}

#[test]
fn a_hold_goes_before_all_else_and_one_that_needs_a_person_before_one_that_ends() {
    let later = Some(NOW.plus(Duration::from_secs(60)));
    let ends = hold("*", Cause::Throttled, later);
    let probes = hold("a", Cause::Throttled, Some(NOW));
    let over = hold("a", Cause::Operator, Some(NOW));
    let stays = hold("a", Cause::Operator, None);
    let refused = hold("a", Cause::Forbidden, later);
    type Told = Option<(Reason, Option<Timestamp>)>;
    let cases: [(&[&HoldRow], Told); 6] = [
        (&[&over], None),
        (&[&ends], Some((Reason::Held, later))),
        (&[&probes], Some((Reason::Held, Some(NOW)))),
        (&[&ends, &stays], Some((Reason::NeedsAPerson, None))),
        (&[&refused, &ends], Some((Reason::NeedsAPerson, later))),
        (&[&hold("c", Cause::Operator, None)], None),
    ];
    for (holds, expected) in cases {
        let mut standing = working(1);
        standing.holds = holds.iter().copied().cloned().collect();
        let first = waits_of(&standing.agents[0], &standing, &HoldsByScope::new(&standing.holds), NOW).remove(0);
        match expected {
            Some((reason, until)) => {
                assert_eq!((first.reason, first.rows, first.until), (reason, 80, until), "{holds:?}")
            }
            None => assert_eq!(first.reason, Reason::Rate, "{holds:?}"),
        }
    }
    let mut standing = working(1);
    standing.holds = vec![stays.clone(), over.clone()];
    let rows = Stoppable::new(&standing);
    assert_eq!(
        [&stays, &ends, &over, &hold("c", Cause::Operator, None)].map(|hold| rows.under(hold, NOW)),
        [80, 160, 0, 0]
    );
}

#[test]
fn the_waits_of_all_agents_are_summed_up_by_reason() {
    let standing = working(1);
    let waits: Vec<Wait> =
        standing.agents.iter().flat_map(|agent| waits_of(agent, &standing, &HoldsByScope::default(), NOW)).collect();
    let all = together(waits.iter());
    assert_eq!(all[0], Wait { reason: Reason::Rate, rows: 130, requests: 8, until: None });
    assert_eq!(all.iter().map(|wait| wait.rows).sum::<u64>(), standing.pending);
}
