//! Settling writes onto the judged rows and their request, and onto nothing else.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        deletion::{RequestId, State},
        outcome::{Cause, Judged, Verdict},
    },
    queue::{Queue as _, Settlement},
};

use super::{
    engine::{Counts, Engine, Request, Row},
    seam::{NOW, Seam, far, given, judged, retry, rows_of_every_kind, settlement},
    tests,
};

/// Rows of every kind. Two pending rows of each agent are in flight.
async fn on_their_way<E: Engine>() -> Seam<E> {
    Seam::with(&rows_of_every_kind(), &[Request::new(8, "a", &[4, 5]), Request::new(9, "b", &[10, 12])]).await
}

/// Settles the request of agent a with these verdicts, and asserts that all tables are as before but for `change`.
async fn assert_written<E: Engine>(verdicts: [Judged; 2], counts: Counts, change: impl Fn(&mut [&mut Row; 2])) {
    let mut seam = on_their_way::<E>().await;
    let mut expected = seam.tables().await;
    let [_, _, _, four, five, ..] = &mut expected.rows[..] else { panic!("twelve rows") };
    let mut written = [four, five];
    for row in &mut written {
        row.request = Some(8);
    }
    change(&mut written);
    *expected.request(8) = Request {
        answered_at: Some(NOW),
        status: Some(404),
        counts: Some(counts),
        fault: Some(Cause::UnknownAgent),
        detail: Some("said with 'it'".to_owned()),
        remote_id: Some("theirs".to_owned()),
        ..Request::new(8, "a", &[4, 5])
    };
    let outcome = |row: &Judged| given(8, row.id.0, row.verdict.as_str(), row.verdict.cause());
    expected.outcomes = verdicts.iter().map(outcome).collect();
    let what = format!("{verdicts:?}");
    let said = Settlement {
        status: Some(404),
        fault: Some(Cause::UnknownAgent),
        detail: Some("said with 'it'".to_owned()),
        remote_id: Some("theirs".to_owned()),
        ..settlement(8, verdicts.to_vec())
    };
    seam.settle(&[said]).await;
    assert_eq!(seam.tables().await, expected, "{what}");
}

pub async fn an_end_is_written_onto_its_rows_and_onto_no_others<E: Engine>() {
    let dead = Verdict::Dead { cause: Cause::Rejected };
    for (verdict, state, counts) in [
        (Verdict::Deleted, State::Deleted, Counts { deleted: 2, ..Counts::default() }),
        (Verdict::Absent, State::Absent, Counts { absent: 2, ..Counts::default() }),
        (dead, State::Dead, Counts { dead: 2, ..Counts::default() }),
    ] {
        let four = judged(4, verdict);
        let five = Judged {
            batch_max: Some(7),
            asks: 3,
            maybe_done: true,
            first_fault: Some(RequestId(7)),
            ..judged(5, verdict)
        };
        let written = |[four, five]: &mut [&mut Row; 2]| {
            for row in [&mut **four, &mut **five] {
                (row.state, row.settled_at, row.attempts) = (state, Some(NOW), 1);
                row.last_cause = verdict.cause();
            }
            (five.batch_max, five.asks, five.maybe_done) = (7, 3, true);
        };
        assert_written::<E>([four, five], counts, written).await;
    }
}

pub async fn a_row_that_comes_back_is_pending_and_counts_its_attempt_unless_it_is_released<E: Engine>() {
    let due_at = NOW.plus(Duration::from_secs(9));
    let counts = Counts { retried: 2, ..Counts::default() };
    for (verdict, attempts) in [(retry(9), 1), (Verdict::Release { due_at, cause: Cause::Lost }, 0)] {
        let four = Judged { evidence: Some(RequestId(8)), ..judged(4, verdict) };
        let five = Judged {
            batch_max: Some(2),
            asks: 1,
            maybe_done: true,
            first_fault: Some(RequestId(8)),
            ..judged(5, verdict)
        };
        let written = |[four, five]: &mut [&mut Row; 2]| {
            for row in [&mut **four, &mut **five] {
                (row.due_at, row.attempts, row.last_cause) = (due_at, attempts, Some(Cause::Lost));
            }
            four.evidence = Some(8);
            (five.batch_max, five.asks, five.maybe_done, five.first_fault) = (2, 1, true, Some(8));
        };
        assert_written::<E>([four, five], counts, written).await;
    }
}

pub async fn what_was_perhaps_done_stays_so_and_so_does_the_lane_that_is_not_mentioned<E: Engine>() {
    let row = Row { batch_max: 5, maybe_done: true, ..Row::new(1, "a", "1") };
    for verdict in [Verdict::Deleted, retry(9)] {
        let mut seam = Seam::<E>::with(std::slice::from_ref(&row), &[Request::new(1, "a", &[1])]).await;
        seam.settle(&[settlement(1, vec![judged(1, verdict)])]).await;
        let written = seam.engine.rows().await.remove(0);
        assert_eq!((written.batch_max, written.maybe_done), (5, true), "{verdict:?}");
    }
}

/// The worker does that after a commit in doubt.
pub async fn settling_twice_changes_nothing<E: Engine>() {
    let mut seam = on_their_way::<E>().await;
    let first = [settlement(8, vec![judged(4, Verdict::Deleted), judged(5, retry(9))])];
    seam.settle(&first).await;
    let settled = seam.tables().await;
    seam.settle(&first).await;
    assert_eq!(seam.tables().await, settled);
    // Neither does another answer to the same request.
    let dead = Verdict::Dead { cause: Cause::ApiFailed };
    let later = Settlement { answered_at: NOW.plus(Duration::from_secs(1)), ..settlement(8, vec![judged(5, dead)]) };
    seam.settle(&[later]).await;
    assert_eq!(seam.tables().await, settled);
}

pub async fn rows_that_an_operator_settled_or_took_out_meanwhile_are_left_alone<E: Engine>() {
    for verdict in [Verdict::Deleted, Verdict::Absent, retry(9), Verdict::Dead { cause: Cause::Lost }] {
        let mut seam = on_their_way::<E>().await;
        seam.engine.edit_where(|row| row.id == 4, |row| row.give_up(far(300))).await;
        seam.engine.remove_where(|row| row.id == 5).await;
        let before = seam.tables().await.rows;
        seam.settle(&[settlement(8, vec![judged(4, verdict), judged(5, verdict)])]).await;
        let mut after = seam.tables().await;
        assert_eq!(after.rows, before, "{verdict:?}");
        assert_eq!(after.request(8).answered_at, Some(NOW), "{verdict:?}");
    }
}

pub async fn the_history_of_a_request_has_the_rows_that_were_judged_and_no_others<E: Engine>() {
    let requests = [1, 2, 3].map(|id| Request::new(id, "a", &[7, 8, 9]));
    let mut seam = Seam::<E>::with(&[], &requests).await;
    let deleted = [7, 8, 9].map(|id| judged(id, Verdict::Deleted));
    // An orphan, one of whose rows an operator has removed.
    let orphan =
        Settlement { is_whole: false, ..settlement(2, vec![judged(7, Verdict::Deleted), judged(9, Verdict::Deleted)]) };
    seam.settle(&[settlement(1, deleted.to_vec()), orphan]).await;
    let expected = [(1, 7), (1, 8), (1, 9), (2, 7), (2, 9)].map(|(request, row)| given(request, row, "deleted", None));
    assert_eq!(seam.engine.outcomes().await, expected);
}

pub async fn answers_that_came_at_many_times_are_settled_together<E: Engine>() {
    let rows: Vec<Row> = (1..=30).map(|id| Row::new(id, "a", &id.to_string())).collect();
    let requests: Vec<Request> = (1..=30).map(|id| Request::new(id, "a", &[id])).collect();
    let mut seam = Seam::<E>::with(&rows, &requests).await;
    let at = |id: i64| NOW.plus(Duration::from_millis(id.unsigned_abs()));
    let verdict = |id: i64| match id % 3 {
        0 => Verdict::Retry { due_at: at(id), cause: Cause::Lost },
        1 => Verdict::Deleted,
        _ => Verdict::Dead { cause: Cause::ApiFailed },
    };
    let answer = |id| Settlement { answered_at: at(id), ..settlement(id, vec![judged(id, verdict(id))]) };
    let settlements: Vec<Settlement> = (1..=30).map(answer).collect();
    seam.settle(&settlements).await;
    let expected: Vec<Row> = rows
        .into_iter()
        .map(|row| {
            let (attempts, request, at) = (1, Some(row.id), at(row.id));
            let row = Row { attempts, request, last_cause: verdict(row.id).cause(), ..row };
            match verdict(row.id).end() {
                Some(state) => Row { state, settled_at: Some(at), ..row },
                None => Row { due_at: at, ..row },
            }
        })
        .collect();
    assert_eq!(seam.engine.rows().await, expected);
    assert!(seam.queue.orphans().await.unwrap().is_empty());
}

tests!($ transitions:
    an_end_is_written_onto_its_rows_and_onto_no_others,
    a_row_that_comes_back_is_pending_and_counts_its_attempt_unless_it_is_released,
    what_was_perhaps_done_stays_so_and_so_does_the_lane_that_is_not_mentioned,
    settling_twice_changes_nothing,
    rows_that_an_operator_settled_or_took_out_meanwhile_are_left_alone,
    the_history_of_a_request_has_the_rows_that_were_judged_and_no_others,
    answers_that_came_at_many_times_are_settled_together,
);
