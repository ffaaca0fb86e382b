use proptest::prelude::*;

use super::*;
use crate::model::{
    deletion::{ALONE, Deletion, EntryId, Lane},
    outcome::{Hold, Judged},
};

#[path = "evidence_tests/singles.rs"]
mod singles;

const AFTER: u32 = 3;
const NOW: Duration = Duration::from_secs(1_000);
const LASTS: Duration = Duration::from_secs(300);

fn evidence() -> Evidence {
    Evidence::new(AFTER, LASTS)
}

fn name(agent: &str) -> AgentId {
    AgentId::parse(agent).unwrap()
}

fn of(agent: &str) -> Option<Scope> {
    Some(Scope::Agent(name(agent)))
}

fn batch_in(lane: u8, agent: &str, rows: impl IntoIterator<Item = i64>) -> Batch {
    let rows = rows.into_iter().map(|id| Deletion::new(DeletionId(id), EntryId::parse(&id.to_string()).unwrap()));
    Batch::new(Lane { priority: 0, agent: name(agent), batch_max: lane }, rows.collect()).unwrap()
}

fn batch(agent: &str, rows: impl IntoIterator<Item = i64>) -> Batch {
    batch_in(20, agent, rows)
}

fn single(agent: &str, row: i64) -> Batch {
    let batch = batch_in(ALONE, agent, [row]).alone();
    assert_eq!(batch.kind(), Kind::Single);
    batch
}

/// A judgement that gives all rows the same verdict.
fn all(batch: &Batch, verdict: Verdict) -> Judgement {
    let judged = |row: &Deletion| Judged {
        id: row.id,
        verdict,
        batch_max: None,
        asks: 0,
        maybe_done: false,
        first_fault: None,
        evidence: None,
    };
    Judgement {
        rows: batch.deletions().iter().map(judged).collect(),
        hold: None,
        strays: 0,
        is_answer: false,
        has_settled: false,
        asks_first: false,
        is_refused: false,
    }
}

fn retried(batch: &Batch, cause: Cause) -> Judgement {
    all(batch, Verdict::Retry { due_at: crate::model::clock::Timestamp::ZERO, cause })
}

fn held(batch: &Batch, scope: Scope, cause: Cause, end: HoldEnd) -> Judgement {
    Judgement {
        hold: Some(Hold { scope, cause, end, not_before: None, may_be_content: true }),
        ..retried(batch, cause)
    }
}

/// A judgement of a fault that counts towards the streak.
fn fault(batch: &Batch, cause: Cause) -> Judgement {
    let scope = if cause == Cause::Unreachable { Scope::All } else { Scope::Agent(batch.lane().agent.clone()) };
    Judgement { is_answer: cause.is_of_an_answer(), ..held(batch, scope, cause, HoldEnd::ByStreak) }
}

fn settled(batch: &Batch) -> Judgement {
    Judgement { is_answer: true, has_settled: true, ..all(batch, Verdict::Deleted) }
}

fn take(evidence: &mut Evidence, request: i64, batch: &Batch, judgement: &Judgement) -> Option<Scope> {
    evidence.take_in(RequestId(request), batch, judgement, false, NOW)
}

fn fail(evidence: &mut Evidence, agent: &str, rows: impl IntoIterator<Item = i64>) -> Option<Scope> {
    let batch = batch(agent, rows);
    take(evidence, 1, &batch, &fault(&batch, Cause::ServerError))
}

fn succeed(evidence: &mut Evidence, request: i64, batch: &Batch) {
    assert_eq!(take(evidence, request, batch, &settled(batch)), None);
}

fn standing(evidence: &Evidence, agent: &str) -> Standing {
    evidence.standing(&batch(agent, [999]), false, false, NOW)
}

#[test]
fn faults_in_a_row_of_one_agent_reach_that_agent_and_never_all() {
    let mut evidence = evidence();
    assert_eq!(fail(&mut evidence, "a", [1, 2]), None);
    assert_eq!(fail(&mut evidence, "a", [3]), None);
    for row in 4..50 {
        assert_eq!(fail(&mut evidence, "a", [row]), of("a"));
    }
    assert!(standing(&evidence, "a").is_suspect && !standing(&evidence, "b").is_suspect);
    assert_eq!(evidence.agents[&name("a")].rows.len(), 4, "two, one and one: what follows is not remembered");
}

#[test]
fn faults_with_some_rows_in_common_are_one_fault_until_they_have_been_twice_as_many() {
    let mut evidence = evidence();
    let reached: Vec<_> = (0..6).map(|n| fail(&mut evidence, "a", [1, 10 + n])).collect();
    assert_eq!(reached[..5], [None, None, None, None, None], "the same row with another one each time");
    assert_eq!(reached[5], None, "the sixth counts as the second");
    assert_eq!(fail(&mut evidence, "a", [1, 20]), of("a"));
}

#[test]
fn when_all_its_rows_are_in_the_streak_already_the_same_ones_count_again() {
    let mut evidence = evidence();
    assert_eq!(fail(&mut evidence, "a", [1, 2]), None);
    assert_eq!(fail(&mut evidence, "a", [1]), None);
    assert_eq!(fail(&mut evidence, "a", [1, 2]), of("a"));
}

#[test]
fn faults_in_a_row_of_two_agents_reach_all() {
    let mut evidence = evidence();
    assert_eq!(fail(&mut evidence, "a", [1]), None);
    assert_eq!(fail(&mut evidence, "b", [2]), None);
    assert!(!standing(&evidence, "b").is_suspect);
    assert_eq!(fail(&mut evidence, "a", [3]), Some(Scope::All));
    assert_eq!(evidence.involved(), BTreeSet::from([name("a"), name("b")]));
    assert!(standing(&evidence, "c").is_suspect, "everybody is");
}

#[test]
fn the_same_rows_of_many_agents_are_different_rows() {
    let mut evidence = evidence();
    let reached: Vec<_> = ["a", "b", "c"].into_iter().map(|agent| fail(&mut evidence, agent, [1])).collect();
    assert_eq!(reached, [None, None, Some(Scope::All)]);
}

#[test]
fn what_is_settled_in_between_ends_everybody_s_streak_together_and_the_agent_s_own() {
    let mut evidence = evidence();
    fail(&mut evidence, "a", [1]);
    fail(&mut evidence, "a", [2]);
    succeed(&mut evidence, 5, &batch("b", [3]));
    assert_eq!(fail(&mut evidence, "b", [4]), None);
    assert_eq!(fail(&mut evidence, "a", [5]), of("a"), "it is long enough for a, and too short for all");
    succeed(&mut evidence, 6, &batch("a", [6]));
    assert!(!standing(&evidence, "a").is_suspect && evidence.involved().is_empty());
    // These rows were in the old streak, and are not in the new one.
    let reached: Vec<_> = [1, 2].map(|row| fail(&mut evidence, "a", [row, 100 + row])).into();
    assert_eq!(reached, [None, None]);
    assert_eq!(fail(&mut evidence, "a", [1]), of("a"));
}

#[test]
fn the_largest_request_that_failed_since_the_last_success_is_remembered() {
    let mut evidence = evidence();
    assert_eq!(evidence.largest(&name("a")), 0);
    fail(&mut evidence, "a", 1..8);
    fail(&mut evidence, "a", [20]);
    fail(&mut evidence, "b", [1, 2]);
    assert_eq!((evidence.largest(&name("a")), evidence.largest(&name("b"))), (7, 2));
    succeed(&mut evidence, 5, &batch("a", [9]));
    assert_eq!((evidence.largest(&name("a")), evidence.largest(&name("b"))), (0, 2));
}

#[test]
fn a_settled_streak_starts_its_run_anew_too() {
    let mut evidence = evidence();
    (0..5).for_each(|n| drop(fail(&mut evidence, "a", [1, 10 + n])));
    succeed(&mut evidence, 5, &batch("a", [2]));
    (0..5).for_each(|n| assert_eq!(fail(&mut evidence, "a", [1, 20 + n]), None));
    assert_eq!(evidence.agents[&name("a")].faults, 1);
}

#[test]
fn what_is_old_news_or_asks_for_no_pause_by_streak_counts_for_nothing() {
    let mut evidence = evidence();
    for request in 1..20 {
        let batch = batch("a", [request]);
        let lost = fault(&batch, Cause::Lost);
        assert_eq!(evidence.take_in(RequestId(request), &batch, &lost, true, NOW), None);
        assert_eq!(take(&mut evidence, request, &batch, &retried(&batch, Cause::Rejected)), None);
        let scope = || Scope::Agent(name("a"));
        for (scope, cause) in
            [(scope(), Cause::Forbidden), (Scope::All, Cause::Contract), (Scope::All, Cause::Throttled)]
        {
            let growing = held(&batch, scope, cause, HoldEnd::Growing);
            assert_eq!(take(&mut evidence, request, &batch, &growing), None);
        }
        let both = Judgement { has_settled: true, ..fault(&batch, Cause::Rejected) };
        assert_eq!(take(&mut evidence, request, &batch, &both), None);
    }
    assert_eq!(evidence.agents[&name("a")].faults, 0);
    assert!(!standing(&evidence, "a").is_suspect && !standing(&evidence, "a").completes_streak);
    assert!(evidence.involved().is_empty());
}

#[test]
fn a_status_out_of_the_contract_that_two_agents_get_is_everybody_s() {
    let contract = |evidence: &mut Evidence, agent: &str| {
        let batch = batch(agent, [1]);
        let judgement = held(&batch, Scope::Agent(name(agent)), Cause::Contract, HoldEnd::Growing);
        take(evidence, 1, &batch, &judgement)
    };
    let mut evidence = evidence();
    assert_eq!((contract(&mut evidence, "a"), contract(&mut evidence, "a")), (None, None));
    assert_eq!(contract(&mut evidence, "b"), Some(Scope::All));
    assert_eq!(evidence.involved(), BTreeSet::from([name("a"), name("b")]));
    succeed(&mut evidence, 2, &batch("c", [1]));
    assert_eq!(contract(&mut evidence, "b"), None, "something was settled in between");
}

#[test]
fn a_refusal_of_an_agent_is_its_own_however_many_agents_get_one() {
    let mut evidence = evidence();
    for agent in ["a", "b", "c", "d"] {
        let batch = batch(agent, [1]);
        let refused = held(&batch, Scope::Agent(name(agent)), Cause::Forbidden, HoldEnd::Growing);
        assert_eq!(take(&mut evidence, 1, &batch, &refused), None);
        let everything = held(&batch, Scope::All, Cause::Contract, HoldEnd::Growing);
        assert_eq!(take(&mut evidence, 1, &batch, &everything), None, "it holds everything by itself");
    }
    assert!(evidence.involved().is_empty());
}

#[test]
fn no_connection_is_everybody_s_however_many_agents_meet_it() {
    let mut evidence = evidence();
    let batch = batch("a", [1]);
    let reached: Vec<_> = (0..4).map(|n| take(&mut evidence, n, &batch, &fault(&batch, Cause::Unreachable))).collect();
    assert_eq!(reached, [None, None, Some(Scope::All), Some(Scope::All)]);
    assert!(evidence.involved().is_empty() && evidence.agents[&name("a")].faults == 0);
    assert!(!standing(&evidence, "a").is_suspect, "it says nothing about what an agent's rows come to");
    assert_eq!(fail(&mut evidence, "a", [1]), None, "one agent alone is never all");
}

#[test]
fn the_fault_before_the_last_is_known_to_complete_the_streak() {
    let mut evidence = evidence();
    let completes = |evidence: &Evidence, agent| standing(evidence, agent).completes_streak;
    fail(&mut evidence, "a", [1]);
    assert!(!completes(&evidence, "a"));
    fail(&mut evidence, "a", [2]);
    assert!(completes(&evidence, "a"));
    assert!(completes(&evidence, "b"), "a fault of b would be the third, of two agents");
    let common = evidence.standing(&batch("a", [1, 3]), false, false, NOW);
    assert!(!common.completes_streak, "it has a row in common with one before");
    succeed(&mut evidence, 9, &batch("b", [9]));
    assert!(completes(&evidence, "a") && !completes(&evidence, "b"));
}

#[test]
fn what_got_through_is_the_agent_s_own_unless_it_has_no_other_work() {
    let mut evidence = evidence();
    succeed(&mut evidence, 7, &batch("b", [1]));
    let found = |evidence: &Evidence, agent, is_only_work| {
        let standing = evidence.standing(&batch(agent, [1]), is_only_work, is_only_work, NOW);
        assert_eq!((standing.is_only_work, standing.is_all_work), (is_only_work, is_only_work));
        if is_only_work { standing.settled_by_anybody } else { standing.settled }
    };
    assert_eq!(found(&evidence, "a", false), None);
    assert_eq!(found(&evidence, "a", true), Some(RequestId(7)));
    assert_eq!(found(&evidence, "b", false), Some(RequestId(7)));
    succeed(&mut evidence, 5, &batch("b", [2]));
    assert_eq!(found(&evidence, "b", true), Some(RequestId(7)), "the newest request, in whatever order they come back");
    succeed(&mut evidence, 6, &batch("a", [3]));
    assert_eq!((found(&evidence, "a", false), found(&evidence, "a", true)), (Some(RequestId(6)), Some(RequestId(7))));
    let work = |is_only_work| evidence.standing(&batch("a", [1]), is_only_work, is_only_work, NOW).is_only_work;
    assert!(work(true) && !work(false));
}

#[test]
fn an_agent_is_known_by_a_200_to_a_bulk_delete_of_its_own_whatever_it_lists() {
    let mut evidence = evidence();
    let nothing = batch("a", [1]);
    take(&mut evidence, 4, &nothing, &fault(&nothing, Cause::ApiFailed));
    take(&mut evidence, 3, &nothing, &fault(&nothing, Cause::ApiFailed));
    assert!(evidence.is_known(&name("a")) && !evidence.is_known(&name("b")));
    assert_eq!(standing(&evidence, "a").answered, Some(RequestId(4)));
    assert_eq!(standing(&evidence, "a").settled, None, "it settled nothing");
    succeed(&mut evidence, 5, &single("b", 1));
    fail(&mut evidence, "c", [1]);
    assert!(!evidence.is_known(&name("b")) && !evidence.is_known(&name("c")));
}

#[test]
fn what_is_known_of_an_agent_without_open_rows_is_forgotten() {
    let mut evidence = evidence();
    succeed(&mut evidence, 1, &batch("a", [1]));
    succeed(&mut evidence, 2, &batch("b", [1]));
    evidence.retain(|agent| agent.as_str() == "b");
    assert!(!evidence.is_known(&name("a")) && evidence.is_known(&name("b")));
    assert_eq!(
        evidence.standing(&batch("a", [1]), true, true, NOW).settled_by_anybody,
        Some(RequestId(2)),
        "anybody's is kept"
    );
}

proptest! {
    #[test]
    fn a_streak_reaches_what_counting_the_faults_since_the_last_success_says(
        events in prop::collection::vec((0_usize..3, prop::bool::weighted(0.15), any::<bool>()), 0..60), after in 1_u32..6,
    ) {
        let mut evidence = Evidence::new(after, LASTS);
        let mut history: Vec<(usize, bool)> = Vec::new();
        for (request, (who, has_settled, is_old_news)) in events.into_iter().enumerate() {
            let id = i64::try_from(request).unwrap();
            let batch = batch(["a", "b", "c"][who], [id]);
            let judgement = if has_settled { settled(&batch) } else { fault(&batch, Cause::Lost) };
            let reached = evidence.take_in(RequestId(id), &batch, &judgement, is_old_news, NOW);
            if has_settled || is_old_news {
                prop_assert_eq!(&reached, &None);
            }
            if has_settled || !is_old_news {
                history.push((who, has_settled));
            }
            let since = history.iter().rev().take_while(|(_, has_settled)| !has_settled);
            let (together, agents): (Vec<usize>, BTreeSet<usize>) = since.map(|(who, _)| (*who, *who)).unzip();
            let own = history.iter().rev().filter(|(other, _)| *other == who).take_while(|(_, has_settled)| !has_settled).count();
            if !has_settled && !is_old_news {
                let expected = if together.len() >= after as usize && agents.len() > 1 {
                    Some(Scope::All)
                } else if own >= after as usize {
                    Some(Scope::Agent(batch.lane().agent.clone()))
                } else {
                    None
                };
                prop_assert_eq!(reached, expected);
            }
        }
    }
}
