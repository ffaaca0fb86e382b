//! Repeated wishes: there is one row per agent and entry, ever.

use audio_cache_sweeper::model::{clock::Timestamp, deletion::State};

use super::{
    engine::{Engine, Row, Wish},
    seam::{Seam, far, rows_of_every_kind},
    tests,
};

fn wish(entry: &str, priority: i64, due_at: Timestamp) -> Wish {
    Wish { priority, due_at, created_at: Some(far(300)), ..Wish::of("a", entry) }
}

pub async fn a_repeated_wish_reopens_a_settled_row_as_if_it_were_new<E: Engine>() {
    let mut seam = Seam::<E>::with(&rows_of_every_kind(), &[]).await;
    let mut expected = seam.engine.rows().await;
    seam.enqueue(&["1", "2", "3"].map(|entry| wish(entry, 0, far(500)))).await;
    for row in &mut expected[..3] {
        *row = Row { due_at: far(500), created_at: far(300), ..Row::new(row.id, "a", &row.entry) };
    }
    assert_eq!(seam.engine.rows().await, expected);
}

pub async fn a_reopened_row_that_is_due_at_once_has_its_turn_by_the_time_of_the_wish<E: Engine>() {
    let mut seam = Seam::<E>::with(&rows_of_every_kind(), &[]).await;
    seam.enqueue(&[wish("1", 0, Timestamp::ZERO)]).await;
    assert_eq!(seam.engine.rows().await[0].due_at, far(300));
}

pub async fn an_open_row_that_is_wished_again_takes_over_a_higher_priority_and_untried_an_earlier_time<E: Engine>() {
    let mut seam = Seam::<E>::with(&rows_of_every_kind(), &[]).await;
    let mut expected = seam.engine.rows().await;
    let again = |priority, due_at| ["4", "5", "6"].map(|entry| wish(entry, priority, due_at));
    // A later due time and a lower priority change nothing.
    seam.enqueue(&again(0, far(9_001))).await;
    assert_eq!(seam.engine.rows().await, expected);
    // Only the untried row takes over an earlier due time.
    seam.enqueue(&again(1, far(8_999))).await;
    expected[3].due_at = far(8_999);
    assert_eq!(seam.engine.rows().await, expected);
    // All three take over a higher priority.
    seam.enqueue(&again(2, Timestamp::ZERO)).await;
    expected[3].due_at = Timestamp::ZERO;
    expected[3..6].iter_mut().for_each(|row| row.priority = 2);
    assert_eq!(seam.engine.rows().await, expected);
}

pub async fn wishes_of_one_transaction_come_to_one_row_each_with_the_highest_priority_and_the_earliest_time<
    E: Engine,
>() {
    let mut seam = Seam::<E>::with(&rows_of_every_kind(), &[]).await;
    let mut expected = seam.engine.rows().await;
    let wishes = [
        wish("new", 0, far(700)),
        wish("1", 0, far(700)),
        wish("4", 1, far(9_000)),
        wish("new", 5, far(600)),
        wish("1", 3, far(650)),
        wish("4", 9, far(8_000)),
        wish("new", -1, far(900)),
        wish("1", 2, far(900)),
    ];
    seam.enqueue(&wishes).await;
    let rows = seam.engine.rows().await;
    let id = rows.last().unwrap().id;
    let new = Row { priority: 5, due_at: far(600), created_at: far(300), ..Row::new(id, "a", "new") };
    expected[0] = Row { priority: 3, due_at: far(650), created_at: far(300), ..Row::new(1, "a", "1") };
    (expected[3].priority, expected[3].due_at) = (9, far(8_000));
    expected.push(new);
    assert_eq!(rows, expected);
    assert_eq!(rows.iter().filter(|row| row.is(State::Pending)).count(), 8);
}

tests!($ wishes:
    a_repeated_wish_reopens_a_settled_row_as_if_it_were_new,
    a_reopened_row_that_is_due_at_once_has_its_turn_by_the_time_of_the_wish,
    an_open_row_that_is_wished_again_takes_over_a_higher_priority_and_untried_an_earlier_time,
    wishes_of_one_transaction_come_to_one_row_each_with_the_highest_priority_and_the_earliest_time,
);
