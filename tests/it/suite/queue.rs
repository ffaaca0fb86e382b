//! The seam between the worker and an engine: claims and commits, orphans, holds, what others wrote, and upkeep.

use std::{collections::BTreeSet, time::Duration};

use audio_cache_sweeper::{
    model::{
        deletion::{ALONE, AgentId, Batch, DeletionId, Kind, Lane, RequestId, State},
        hold::{HoldChange, HoldRow},
        outcome::{Cause, Scope, Verdict},
    },
    queue::{Claim, Counter as _, Queue, QueueError as _, Remedy, Tx as _},
};
use uuid::Uuid;

use super::{
    bed::{Bed, Plan},
    crash::cut_short,
    engine::{Counts, Engine, Hold, Request, Row, Wish},
    seam::{NOW, Seam, far, given, judged, lane, retry, rows_of_every_kind, settlement},
    tests,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn agent(id: &str) -> AgentId {
    AgentId::parse(id).unwrap()
}

/// Claims the due rows of a lane, except those in flight.
async fn claim<Q: Queue>(tx: &mut Q::Tx<'_>, lane: Lane, in_flight: &[DeletionId]) -> Claim {
    let request = tx.next_request_id();
    let look = tx.look(std::slice::from_ref(&lane), 20, in_flight, false, NOW).await.unwrap().remove(0);
    let rows = look.due.into_iter().map(|row| row.deletion).collect();
    let correlation_id = Uuid::from_u128(request.0.unsigned_abs().into());
    Claim { request, correlation_id, batch: Batch::new(lane, rows).unwrap() }
}

pub async fn a_batch_is_claimed_and_settled_and_the_rows_beside_it_stay_as_they_are<E: Engine>() {
    let mut seam = Seam::<E>::new().await;
    seam.enqueue(&[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4"), ("b", "1")].map(|(a, entry)| Wish::of(a, entry)))
        .await;
    let lanes: BTreeSet<Lane> = seam.queue.lanes().await.unwrap().into_iter().map(|(lane, _)| lane).collect();
    assert_eq!(lanes, BTreeSet::from([lane("a"), lane("b")]));
    let mut expected = seam.tables().await;
    let ids: Vec<i64> = expected.rows.iter().map(|row| row.id).collect();

    let mut tx = seam.queue.begin().await.unwrap();
    let claims = [claim::<E::Queue>(&mut tx, lane("a"), &[DeletionId(ids[3])]).await];
    tx.commit(&claims, None, NOW).await.unwrap();
    let Claim { request, correlation_id, batch } = &claims[0];
    let correlation_id = correlation_id.to_string();
    let claimed = Request { correlation_id, claimed_at: NOW, ..Request::new(request.0, "a", &ids[..3]) };
    expected.requests = vec![claimed.clone()];
    assert_eq!(seam.tables().await, expected, "a claim touches no row");
    let orphans = seam.queue.orphans().await.unwrap();
    assert_eq!((orphans.len(), orphans[0].request), (1, *request));
    assert_eq!(orphans[0].batch.as_ref().unwrap().deletions(), batch.deletions());

    let verdicts = [Verdict::Deleted, retry(9), Verdict::Dead { cause: Cause::Rejected }];
    let rows = ids.iter().zip(verdicts).map(|(id, verdict)| judged(*id, verdict)).collect();
    seam.settle(&[settlement(request.0, rows)]).await;
    let written = |row: &Row, state, cause| {
        let settled_at = (state != State::Pending).then_some(NOW);
        Row { state, attempts: 1, request: Some(request.0), last_cause: cause, settled_at, ..row.clone() }
    };
    expected.rows[0] = written(&expected.rows[0], State::Deleted, None);
    expected.rows[1] = written(&expected.rows[1], State::Pending, Some(Cause::Lost));
    expected.rows[1].due_at = NOW.plus(seconds(9));
    expected.rows[2] = written(&expected.rows[2], State::Dead, Some(Cause::Rejected));
    let counts = Some(Counts { deleted: 1, retried: 1, dead: 1, absent: 0 });
    expected.requests = vec![Request { answered_at: Some(NOW), status: Some(200), counts, ..claimed }];
    let told = [("deleted", None), ("retry", Some(Cause::Lost)), ("dead", Some(Cause::Rejected))];
    expected.outcomes =
        told.iter().zip(&ids).map(|((verdict, cause), id)| given(request.0, *id, verdict, *cause)).collect();
    assert_eq!(seam.tables().await, expected);
    assert!(seam.queue.orphans().await.unwrap().is_empty() && !seam.queue.is_empty().await.unwrap());
    let tally = seam.queue.counter().census(NOW).await.unwrap().tally;
    assert_eq!((tally.pending, tally.due, tally.dead), (3, 2, 1));
}

pub async fn the_id_of_a_request_is_given_out_once_also_if_nothing_came_of_it<E: Engine>() {
    let mut seam = Seam::<E>::with(&[Row::new(1, "a", "1")], &[Request::new(41, "a", &[1])]).await;
    // Of changes that the worker was not told of, an engine may make no claims.
    seam.queue.changed().await.unwrap();
    let mut tx = seam.queue.begin().await.unwrap();
    let ids = [tx.next_request_id(), tx.next_request_id()];
    assert!(RequestId(41) < ids[0] && ids[0] < ids[1], "{ids:?}");
    drop(tx);
    let mut tx = seam.queue.begin().await.unwrap();
    let claims = [claim::<E::Queue>(&mut tx, lane("a"), &[]).await];
    assert!(claims[0].request > ids[1]);
    tx.commit(&claims, None, NOW).await.unwrap();
    let requests: Vec<i64> = seam.engine.requests().await.iter().map(|request| request.id).collect();
    assert_eq!(requests, [41, claims[0].request.0]);
}

/// Settles a request, places a hold and lifts one, in a transaction that is still open.
async fn change_everything<Q: Queue>(queue: &mut Q) -> Q::Tx<'_> {
    let mut tx = queue.begin().await.unwrap();
    tx.settle([settlement(8, vec![judged(4, Verdict::Deleted), judged(5, retry(9))])].iter()).await.unwrap();
    let held = HoldRow {
        scope: Scope::All,
        cause: Cause::Unauthorized,
        since_at: NOW,
        until_at: Some(NOW.plus(seconds(60))),
        repeats: 1,
        probed_at: Some(NOW),
        why: None,
    };
    let lifted = HoldChange::Lifted { scope: Scope::Agent(agent("a")), cause: Cause::Forbidden, until_at: None };
    tx.change_holds(&[HoldChange::Placed { row: held, is_longest: false }, lifted]).await.unwrap();
    tx
}

async fn about_to_change<E: Engine>() -> Seam<E> {
    let mut seam = Seam::<E>::with(&rows_of_every_kind(), &[Request::new(8, "a", &[4, 5])]).await;
    seam.engine.place(&[Hold { cause: Cause::Forbidden, ..Hold::on("a") }, Hold::on("b")]).await;
    seam.queue.changed().await.unwrap();
    seam
}

pub async fn of_a_transaction_that_is_dropped_nothing_happens<E: Engine>() {
    let mut seam = about_to_change::<E>().await;
    let before = seam.tables().await;
    drop(change_everything(&mut seam.queue).await);
    seam.queue.undo().await;
    assert_eq!(seam.tables().await, before);
    seam.engine.pause("c").await;
    seam.engine.lift_where(|hold| hold.scope.as_str() == "c").await;
    // [`Queue::begin`] undoes a dropped transaction, too.
    drop(change_everything(&mut seam.queue).await);
    change_everything(&mut seam.queue).await.commit(&[], None, NOW).await.unwrap();
    assert_eq!(seam.engine.held().await, [("*".to_owned(), Cause::Unauthorized), ("b".to_owned(), Cause::Operator)]);
}

/// A commit in doubt: its future is dropped, and nobody knows whether it happened. All of it happened or nothing, and settling
/// the same again completes it.
pub async fn a_commit_that_is_cut_short_at_any_poll_happens_whole_or_not_at_all<E: Engine>() {
    let (mut polls, mut happened) = (1, 0);
    loop {
        let mut seam = about_to_change::<E>().await;
        let before = seam.tables().await;
        let mut tx = change_everything(&mut seam.queue).await;
        let claims = [claim::<E::Queue>(&mut tx, Lane { priority: 1, ..lane("b") }, &[]).await];
        let whole = cut_short(tx.commit(&claims, None, NOW), polls).await.is_some();
        seam.queue.undo().await;
        let cut = seam.tables().await;
        let what = format!("cut short after {polls} polls");
        if cut != before {
            happened += 1;
            assert_eq!(cut.requests.len(), 2, "{what}: claimed");
            assert_eq!(cut.outcomes.len(), 2, "{what}: settled");
            assert_eq!(cut.holds.iter().map(Hold::key).next(), Some(("*", Cause::Unauthorized)), "{what}: held");
        }
        assert!(!whole || cut != before, "{what}");
        let orphans: Vec<RequestId> = seam.queue.orphans().await.unwrap().iter().map(|orphan| orphan.request).collect();
        let claimed = claims[0].request;
        assert_eq!(orphans, if cut == before { vec![RequestId(8)] } else { vec![claimed] }, "{what}");
        change_everything(&mut seam.queue).await.commit(&[], None, NOW).await.unwrap();
        let settled = seam.tables().await;
        assert_eq!(settled.outcomes, [given(8, 4, "deleted", None), given(8, 5, "retry", Some(Cause::Lost))], "{what}");
        assert_eq!(settled.rows.iter().map(|row| row.attempts).sum::<u32>(), 16 + 2, "{what}: counted once");
        if whole {
            break;
        }
        polls += 1;
    }
    assert!(happened > 0);
}

pub async fn of_an_orphan_only_the_rows_that_are_still_open_are_left<E: Engine>() {
    let rows: Vec<Row> = (1..=5).map(|id| Row::new(id, "a", &id.to_string())).collect();
    let answered = Request { answered_at: Some(NOW), ..Request::new(2, "a", &[4]) };
    let alone = Request { kind: Kind::Single, ..Request::new(3, "a", &[4]) };
    let gone = Request::new(4, "a", &[5]);
    let mut seam = Seam::<E>::with(&rows, &[Request::new(1, "a", &[1, 2, 3]), answered, alone, gone]).await;
    seam.engine.remove_where(|row| [2, 5].contains(&row.id)).await;
    seam.engine.edit_where(|row| row.id == 3, |row| row.give_up(far(0))).await;
    let orphans = seam.queue.orphans().await.unwrap();
    assert_eq!(orphans.iter().map(|orphan| orphan.request.0).collect::<Vec<_>>(), [1, 3, 4]);
    let left =
        |at: usize| orphans[at].batch.as_ref().map(|batch| (batch.lane().batch_max == ALONE, batch.deletions()[0].id));
    assert_eq!([left(0), left(1), left(2)], [Some((false, DeletionId(1))), Some((true, DeletionId(4))), None]);
    assert!(orphans[..2].iter().all(|orphan| orphan.batch.as_ref().unwrap().len() == 1));
}

pub async fn a_hold_is_lifted_only_if_it_is_still_the_one_that_was_known<E: Engine>() {
    let lifted = HoldChange::Lifted { scope: Scope::All, cause: Cause::Throttled, until_at: Some(NOW) };
    for (until_at, stays) in [(Some(NOW), false), (Some(NOW.plus(seconds(1))), true), (None, true)] {
        let mut seam = Seam::<E>::new().await;
        let bystanders = [Hold::on("a").until(NOW), Hold { cause: Cause::Throttled, ..Hold::on("a") }.until(NOW)];
        let hold = Hold { until_at, cause: Cause::Throttled, ..Hold::on("*") };
        seam.engine.place(&bystanders).await;
        seam.engine.place(std::slice::from_ref(&hold)).await;
        let mut tx = seam.queue.begin().await.unwrap();
        tx.change_holds(std::slice::from_ref(&lifted)).await.unwrap();
        tx.commit(&[], None, NOW).await.unwrap();
        let expected: Vec<Hold> = Some(hold).filter(|_| stays).into_iter().chain(bystanders).collect();
        assert_eq!(seam.engine.holds().await, expected, "until {until_at:?}");
    }
}

pub async fn a_hold_takes_the_place_of_the_one_with_its_scope_and_cause<E: Engine>() {
    let mut seam = Seam::<E>::new().await;
    let before = Hold { cause: Cause::Forbidden, repeats: 2, ..Hold::on("a") };
    seam.engine.place(&[before.clone(), Hold::on("a"), Hold { cause: Cause::Forbidden, ..Hold::on("b") }]).await;
    let [mut expected, known] = [seam.engine.holds().await, seam.queue.holds().await.map(to_holds).unwrap()];
    assert_eq!(known, expected);
    let row = HoldRow {
        scope: before.scope.clone(),
        cause: before.cause,
        since_at: NOW,
        until_at: Some(NOW.plus(seconds(9))),
        repeats: 3,
        probed_at: Some(NOW),
        why: None,
    };
    let mut tx = seam.queue.begin().await.unwrap();
    tx.change_holds(&[HoldChange::Placed { row: row.clone(), is_longest: true }]).await.unwrap();
    let of_a = tx.holds_of(&BTreeSet::from([Scope::All, before.scope.clone()])).await.unwrap();
    assert_eq!(to_holds(of_a), [to_hold(row.clone()), Hold::on("a")], "with what this transaction has changed");
    tx.commit(&[], None, NOW).await.unwrap();
    let at = expected.iter().position(|hold| *hold == before).unwrap();
    expected[at] = to_hold(row);
    assert_eq!(seam.engine.holds().await, expected);
}

fn to_hold(row: HoldRow) -> Hold {
    let HoldRow { scope, cause, since_at, until_at, repeats, probed_at, why: _ } = row;
    Hold { scope, cause, since_at, until_at, probed_at, repeats }
}

/// Ordered by scope and cause.
fn to_holds(rows: Vec<HoldRow>) -> Vec<Hold> {
    let mut holds: Vec<Hold> = rows.into_iter().map(to_hold).collect();
    holds.sort_by_key(|hold| (hold.scope.as_str().to_owned(), hold.cause.as_str()));
    holds
}

pub async fn of_the_holds_that_are_over_a_person_s_are_removed_and_no_others<E: Engine>() {
    let mut seam = Seam::<E>::new().await;
    let [past, later] = [NOW, NOW.plus(Duration::from_millis(1))];
    let ours = |scope| Hold { cause: Cause::Forbidden, ..Hold::on(scope) }.until(past);
    let stay = [ours("a"), Hold::on("b").until(later), Hold::on("c"), Hold::on("unasked").until(past)];
    seam.engine.place(&stay).await;
    seam.engine.place(&[Hold::on("*").until(past), Hold::on("a").until(past)]).await;
    let mut tx = seam.queue.begin().await.unwrap();
    let scopes = [Scope::All, Scope::Agent(agent("a")), Scope::Agent(agent("b")), Scope::Agent(agent("c"))];
    tx.lift_over(&scopes, NOW).await.unwrap();
    tx.commit(&[], None, NOW).await.unwrap();
    assert_eq!(seam.engine.holds().await, stay);
}

pub async fn what_others_write_is_news_once_and_what_the_worker_writes_is_none<E: Engine>() {
    let mut seam = Seam::<E>::with(&[Row::new(1, "a", "1")], &[Request::new(1, "a", &[1])]).await;
    seam.queue.changed().await.unwrap();
    assert!(!seam.queue.changed().await.unwrap(), "nobody wrote");
    seam.settle(&[settlement(1, vec![judged(1, Verdict::Deleted)])]).await;
    assert!(!seam.queue.changed().await.unwrap(), "the worker itself");
    for hold in [false, true] {
        if hold {
            seam.engine.pause("a").await;
        } else {
            seam.engine.enqueue(&[Wish::of("a", "2")]).await;
        }
        let mut tx = seam.queue.begin().await.unwrap();
        assert!(tx.news().await.unwrap() || E::learns_late(), "in a transaction, too");
        tx.commit(&[], None, NOW).await.unwrap();
        assert!(seam.queue.changed().await.unwrap() && !seam.queue.changed().await.unwrap(), "once: {hold}");
    }
}

pub async fn while_others_keep_the_queue_to_themselves_it_is_to_be_tried_again_and_nothing_is_lost<E: Engine>() {
    let mut seam = Seam::<E>::with(&rows_of_every_kind(), &[Request::new(8, "a", &[4, 5])]).await;
    let before = seam.tables().await;
    seam.engine.shut_out().await;
    for _ in 0..2 {
        let error = seam.queue.can_write().await.unwrap_err();
        assert_eq!(error.remedy(), Remedy::Wait, "{error}");
        assert!(error.to_string().contains(&seam.engine.address()), "{error}");
    }
    seam.queue.undo().await;
    seam.engine.let_in().await;
    seam.queue.can_write().await.unwrap();
    assert_eq!(seam.tables().await, before);
    seam.settle(&[settlement(8, vec![judged(4, Verdict::Deleted), judged(5, Verdict::Deleted)])]).await;
    assert_eq!(seam.engine.count_in(State::Deleted).await, 2 + 2);
}

pub async fn only_what_is_settled_and_old_is_pruned<E: Engine>() {
    let cutoff = far(1_000);
    let row = |id, state, settled_at| {
        let settled_at = Some(settled_at).filter(|_| state != State::Pending);
        Row { state, settled_at, ..Row::new(id, "a", &format!("{id}")) }
    };
    let rows = [
        row(1, State::Deleted, far(999)),
        row(2, State::Dead, far(999)),
        row(3, State::Deleted, cutoff),
        row(4, State::Pending, far(0)),
        row(5, State::Absent, far(999)),
        row(6, State::Absent, cutoff),
    ];
    let mut seam = Seam::<E>::with(&rows, &[1, 2, 3].map(|id| Request::new(id, "a", &[id * 2 - 1, id * 2]))).await;
    let answered = |id: i64, at| audio_cache_sweeper::queue::Settlement {
        answered_at: at,
        ..settlement(id, vec![judged(id * 2 - 1, Verdict::Deleted)])
    };
    seam.settle(&[answered(1, far(999)), answered(2, cutoff)]).await;
    let mut expected = seam.tables().await;
    assert_eq!(seam.queue.upkeep(None).await.unwrap().removed, 0);
    assert_eq!(seam.tables().await, expected, "nothing is to be removed");
    let mut removed = 0;
    loop {
        let step = seam.queue.upkeep(Some(cutoff.into())).await.unwrap();
        removed += step.removed;
        if !step.more {
            break;
        }
    }
    assert_eq!(removed, 3 + 1);
    expected.rows.retain(|row| [3, 4, 6].contains(&row.id));
    expected.requests.retain(|request| request.id != 1);
    expected.outcomes.retain(|outcome| outcome.request != 1);
    assert_eq!(seam.tables().await, expected);
    // Nothing is left to prune. A pruned entry that is wished again gets a new row.
    assert_eq!(seam.queue.upkeep(Some(cutoff.into())).await.unwrap().removed, 0);
    seam.enqueue(&[Wish::of("a", "1")]).await;
    assert!(seam.engine.rows_where(|row| row.entry == "1").await[0].id > 6, "with an id of its own");
}

pub async fn a_look_sees_what_its_own_transaction_has_settled<E: Engine>() {
    let rows: Vec<Row> = (1..=3).map(|id| Row::new(id, "a", &id.to_string())).collect();
    let mut seam = Seam::<E>::with(&rows, &[Request::new(1, "a", &[1, 2])]).await;
    let mut tx = seam.queue.begin().await.unwrap();
    tx.settle([settlement(1, vec![judged(1, Verdict::Deleted), judged(2, retry(9))])].iter()).await.unwrap();
    let look = tx.look(&[lane("a")], 20, &[], false, NOW).await.unwrap().remove(0);
    assert_eq!(look.due.iter().map(|row| row.deletion.id.0).collect::<Vec<_>>(), [3]);
    assert_eq!(look.next_due_at, Some(NOW.plus(seconds(9))));
}

pub async fn invalid_rows_are_made_dead_by_a_sweep_and_the_rows_beside_them_stay<E: Engine>() {
    let mut seam = Seam::<E>::with(&rows_of_every_kind(), &[]).await;
    if !seam.engine.switch_checks_off().await {
        return;
    }
    let before = seam.tables().await;
    // More rows than a step goes through.
    let many: Vec<Wish> = (0..6_000).map(|id| Wish::of("many", &format!("{id}"))).collect();
    seam.engine.enqueue(&many).await;
    seam.engine.enqueue(&[Wish::of("a", "white space"), Wish::of("no/agent", "1"), Wish::of("many", "")]).await;
    let listed = seam.queue.lanes().await;
    assert_eq!(listed.unwrap_err().remedy(), Remedy::Sweep);
    let (mut dead, mut steps) = (0, 0);
    loop {
        let step = seam.queue.sweep(NOW).await.unwrap();
        (dead, steps) = (dead + step.dead, steps + 1);
        if !step.more {
            break;
        }
    }
    assert!(dead == 3 && steps > 1, "{dead} rows in {steps} steps");
    assert!(seam.queue.lanes().await.is_ok());
    let swept = seam.engine.rows_where(|row| row.state == State::Dead && row.settled_at == Some(NOW)).await;
    let names: Vec<_> = swept.iter().map(|row| (row.agent.as_str(), row.entry.as_str(), row.last_cause)).collect();
    let rejected = Some(Cause::Rejected);
    assert_eq!(names, [("a", "white space", rejected), ("no/agent", "1", rejected), ("many", "", rejected)]);
    let mut after = seam.tables().await;
    after.rows.retain(|row| before.rows.iter().any(|known| known.id == row.id));
    assert_eq!(after, before);
    assert_eq!(seam.queue.sweep(NOW).await.unwrap().dead, 0, "and the next sweep begins anew");
}

pub async fn an_orphan_s_row_that_cannot_be_read_is_dead_after_the_start<E: Engine>() {
    let mut bed = Bed::<E>::new(Plan::default()).await;
    if !bed.switch_checks_off().await {
        return;
    }
    let rows = [Row::new(900, "a", "white space"), Row::new(901, "a", "1")];
    bed.put(&rows, &[Request::new(50, "a", &[900, 901])]).await;
    let mut bed = bed.restart().await;
    let rows = bed.rows().await;
    let told: Vec<_> = rows.iter().map(|row| (row.state, row.attempts, row.last_cause)).collect();
    assert_eq!(told, [(State::Dead, 0, Some(Cause::Rejected)), (State::Pending, 1, Some(Cause::Lost))]);
    assert_eq!((bed.worker.totals().dead, bed.worker.totals().retried), (1, 1));
    assert!(bed.unanswered().await.is_empty());
}

tests!($ queue:
    a_look_sees_what_its_own_transaction_has_settled,
    invalid_rows_are_made_dead_by_a_sweep_and_the_rows_beside_them_stay,
    an_orphan_s_row_that_cannot_be_read_is_dead_after_the_start,
    a_batch_is_claimed_and_settled_and_the_rows_beside_it_stay_as_they_are,
    the_id_of_a_request_is_given_out_once_also_if_nothing_came_of_it,
    of_a_transaction_that_is_dropped_nothing_happens,
    a_commit_that_is_cut_short_at_any_poll_happens_whole_or_not_at_all,
    of_an_orphan_only_the_rows_that_are_still_open_are_left,
    a_hold_is_lifted_only_if_it_is_still_the_one_that_was_known,
    a_hold_takes_the_place_of_the_one_with_its_scope_and_cause,
    of_the_holds_that_are_over_a_person_s_are_removed_and_no_others,
    what_others_write_is_news_once_and_what_the_worker_writes_is_none,
    while_others_keep_the_queue_to_themselves_it_is_to_be_tried_again_and_nothing_is_lost,
    only_what_is_settled_and_old_is_pruned,
);
