//! Which rows go out together, and when a lane is looked at again.

use super::*;
use crate::model::deletion::DeletionId;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(100_000);

fn rules() -> Rules {
    Rules {
        batch_size: 20,
        linger: Duration::from_secs(1),
        retry: Backoff::new(Duration::from_secs(16), Duration::from_secs(64)).unwrap(),
        recheck: Duration::from_millis(100),
        asks_refused: false,
    }
}

fn lane(batch_max: u8) -> Lane {
    Lane { priority: 0, agent: AgentId::parse("a").unwrap(), batch_max }
}

fn look(rows: usize, due_since: Timestamp, next_due_at: Option<Timestamp>) -> Look {
    let due = (0..rows)
        .map(|n| {
            let entry = EntryId::parse(&n.to_string()).unwrap();
            let id = DeletionId(i64::try_from(n).unwrap());
            DueRow { deletion: Deletion::new(id, entry), due_since, turn: due_since, is_retry: false }
        })
        .collect();
    Look { due, next_due_at }
}

fn sizes(batches: &[Batch]) -> Vec<usize> {
    batches.iter().map(Batch::len).collect()
}

#[test]
fn full_batches_go_and_the_rest_waits_until_its_oldest_has_lingered() {
    let since = NOW.minus(Duration::from_millis(400));
    let (found, next) = batches(&lane(20), look(41, since, None), 160, 8, &Busy::new(), &rules(), NOW);
    assert_eq!((sizes(&found), next), (vec![20, 20], Next::LookAt(NOW.plus(Duration::from_millis(600)))));
    let lingered = NOW.minus(rules().linger);
    let (found, next) = batches(&lane(20), look(41, lingered, None), 160, 8, &Busy::new(), &rules(), NOW);
    assert_eq!((sizes(&found), next), (vec![20, 20, 1], Next::Nothing));
}

#[test]
fn a_lane_with_less_than_it_could_send_is_looked_at_again() {
    let (found, next) = batches(&lane(20), look(60, NOW, None), 160, 2, &Busy::new(), &rules(), NOW);
    assert_eq!((sizes(&found), next), (vec![20, 20], Next::HasMore));
    let (found, next) = batches(&lane(20), look(40, NOW, None), 40, 2, &Busy::new(), &rules(), NOW);
    assert_eq!((sizes(&found), next), (vec![20, 20], Next::HasMore), "as many as asked for: there may be more");
    let later = NOW.plus(Duration::from_secs(60));
    let (found, next) = batches(&lane(20), look(20, NOW, Some(later)), 160, 2, &Busy::new(), &rules(), NOW);
    assert_eq!((sizes(&found), next), (vec![20], Next::LookAt(later)));
}

#[test]
fn rows_that_failed_wait_longer_for_company_and_no_longer_than_their_jitter_leaves_of_a_quarter() {
    let since = NOW.minus(Duration::from_secs(2));
    let mut failed = look(3, since, None);
    failed.due.iter_mut().for_each(|row| (row.deletion.attempts, row.is_retry) = (1, true));
    let (found, next) = batches(&lane(20), failed, 160, 8, &Busy::new(), &rules(), NOW);
    assert_eq!((sizes(&found), next), (vec![], Next::LookAt(NOW.plus(Duration::from_secs(1)))));
    let mut joined = look(3, since, None);
    (joined.due[0].deletion.attempts, joined.due[0].is_retry) = (1, true);
    let (found, _) = batches(&lane(20), joined, 160, 8, &Busy::new(), &rules(), NOW);
    assert_eq!(sizes(&found), [3], "new rows have lingered, and take the others along");
    let mut released = look(3, since, None);
    released.due.iter_mut().for_each(|row| row.deletion.attempts = 1);
    let (found, _) = batches(&lane(20), released, 160, 8, &Busy::new(), &rules(), NOW);
    assert_eq!(sizes(&found), [3], "what was held up by something else has waited enough");
}

#[test]
fn halves_do_not_linger() {
    let (found, next) = batches(&lane(3), look(5, NOW, None), 160, 8, &Busy::new(), &rules(), NOW);
    assert_eq!((sizes(&found), next), (vec![3, 2], Next::Nothing));
}

#[test]
fn rows_to_be_asked_about_alone_go_alone_and_at_once() {
    let (found, next) = batches(&lane(ALONE), look(3, NOW, None), 160, 8, &Busy::new(), &rules(), NOW);
    assert_eq!((sizes(&found), next), (vec![1, 1, 1], Next::Nothing));
}

#[test]
fn where_asking_is_refused_rows_to_be_asked_about_go_together() {
    let rules = Rules { asks_refused: true, ..rules() };
    let (found, _) = batches(&lane(ALONE), look(25, NOW, None), 160, 8, &Busy::new(), &rules, NOW);
    assert_eq!(sizes(&found), [20, 5]);
    let (found, _) = batches(&lane(4), look(5, NOW, None), 160, 8, &Busy::new(), &rules, NOW);
    assert_eq!(sizes(&found), [4, 1], "parts of what was rejected stay parts");
    assert_eq!(probe(&lane(ALONE), look(25, NOW, None), 0, 0, &Busy::new(), &rules).unwrap().len(), 20);
}

#[test]
fn an_id_that_is_in_flight_as_another_row_waits() {
    let busy = Busy::from([(AgentId::parse("a").unwrap(), HashSet::from([EntryId::parse("0").unwrap()]))]);
    let (found, next) = batches(&lane(1), look(2, NOW, None), 160, 8, &busy, &rules(), NOW);
    assert_eq!((sizes(&found), next), (vec![1], Next::LookAt(NOW.plus(rules().recheck))));
    let (found, next) = batches(&lane(1), look(1, NOW, None), 1, 8, &busy, &rules(), NOW);
    assert_eq!((sizes(&found), next), (vec![], Next::LookAt(NOW.plus(rules().recheck))));
}

fn ids(batch: &Batch) -> Vec<&str> {
    batch.deletions().iter().map(|row| row.entry.as_str()).collect()
}

fn probe_of(rows: usize, batch_max: u8, halved: u32) -> Batch {
    probe(&lane(batch_max), look(rows, NOW, None), halved, 0, &Busy::new(), &rules()).unwrap()
}

#[test]
fn a_probe_carries_what_the_halvings_leave_and_never_nothing() {
    let sizes = |rows| [0, 1, 2, 3, 4, 5, 8, 31, u32::MAX].map(|halved| probe_of(rows, 20, halved).len());
    assert_eq!(sizes(20), [20, 10, 5, 3, 2, 1, 1, 1, 1]);
    assert_eq!(sizes(7), [7, 4, 2, 1, 1, 1, 1, 1, 1]);
    assert_eq!(sizes(1), [1; 9]);
}

#[test]
fn a_probe_carries_at_most_what_its_lane_may_and_waits_for_no_others() {
    assert_eq!(probe_of(50, 20, 0).len(), 20);
    assert_eq!((probe_of(50, 4, 0).len(), probe_of(50, 4, 1).len()), (4, 2), "halves of what could go");
    assert_eq!(probe_of(50, ALONE, 0).len(), 1);
    let few = Rules { batch_size: 3, ..rules() };
    let probe = probe(&lane(20), look(50, NOW, None), 0, 0, &Busy::new(), &few).unwrap();
    assert_eq!((ids(&probe), probe.lane()), (vec!["0", "1", "2"], &lane(20)));
    assert_eq!(ids(&probe_of(4, 20, 1)), ["0", "1"], "the first ones of the look");
}

#[test]
fn what_is_halved_is_the_largest_request_that_failed_even_if_less_of_it_is_due() {
    let len = |rows, batch_max, halved, largest| {
        let probe = probe(&lane(batch_max), look(rows, NOW, None), halved, largest, &Busy::new(), &rules());
        probe.unwrap().len()
    };
    assert_eq!((len(10, 20, 1, 20), len(10, 20, 2, 20), len(3, 20, 2, 20)), (10, 5, 3));
    assert_eq!((len(20, 20, 1, 4), len(4, 4, 1, 20)), (10, 2), "there is more now; and no more than its lane may");
    assert_eq!(len(5, ALONE, 0, 20), 1);
}

#[test]
fn a_probe_leaves_out_what_is_in_flight_and_takes_no_id_twice() {
    let agent = |name| AgentId::parse(name).unwrap();
    let flying = |name, ids: &[&str]| (agent(name), ids.iter().map(|id| EntryId::parse(id).unwrap()).collect());
    let busy = Busy::from([flying("a", &["0", "2"]), flying("b", &["1", "3"])]);
    let mut found = look(4, NOW, None);
    found.due.extend(look(4, NOW, None).due);
    let batch = probe(&lane(20), found, 0, 0, &busy, &rules()).unwrap();
    assert_eq!(ids(&batch), ["1", "3"]);
    let all = Busy::from([flying("a", &["0", "1"])]);
    assert_eq!(probe(&lane(20), look(2, NOW, None), 0, 0, &all, &rules()), None);
    assert_eq!(probe(&lane(20), look(0, NOW, None), 0, 0, &Busy::new(), &rules()), None);
}

proptest! {
    #[test]
    fn rows_that_have_lingered_take_no_more_requests_than_they_must(rows in 0_usize..200, batch_size in 1_u8..=20, batch_max in 1_u8..=20) {
        let rules = Rules { batch_size, ..rules() };
        let (found, _) = batches(&lane(batch_max), look(rows, Timestamp::ZERO, None), 1_000, 1_000, &Busy::new(), &rules, NOW);
        prop_assert_eq!(found.len(), rows.div_ceil(usize::from(batch_size.min(batch_max))));
        prop_assert_eq!(sizes(&found).iter().sum::<usize>(), rows);
    }
}
