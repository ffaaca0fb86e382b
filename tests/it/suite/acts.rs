//! Acts of operators: the daemon logs each, whether or not it ran at that time.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        act::{Act, ActId, ActKind},
        clock::Timestamp,
    },
    queue::{Queue as _, Tx as _},
};

use super::{
    bed::{Bed, Plan, START},
    engine::Engine,
    seam::Seam,
    tests,
};
use crate::logs::Log;

const MINUTE: Duration = Duration::from_secs(60);

/// An act that was done at the start of the test.
fn act(id: i64, kind: ActKind) -> Act {
    Act {
        id: ActId(id),
        acted_at: START,
        kind: Some(kind),
        operator: "ann".to_owned(),
        scope: Some("a".to_owned()),
        rows: 3,
        detail: Some("dead rows".to_owned()),
        ended: true,
    }
}

/// An act whose command is at work, or was killed.
fn open(id: i64, at: Timestamp) -> Act {
    Act { acted_at: at, ended: false, ..act(id, ActKind::Retry) }
}

/// Operator, act and message of each act in the log.
fn said(log: &Log) -> Vec<String> {
    let entries = log.entries();
    let acts = entries.iter().filter(|entry| entry["event"] == "operator_act");
    acts.map(|entry| format!("{}: {}", entry["act"].as_str().unwrap(), entry["message"].as_str().unwrap())).collect()
}

pub async fn an_act_is_returned_until_it_is_logged_the_oldest_first<E: Engine>() {
    let mut seam = Seam::<E>::new().await;
    assert_eq!(seam.queue.acts(START, 9).await.unwrap(), []);
    let all =
        [act(3, ActKind::Hold), Act { scope: None, detail: None, ..act(5, ActKind::Enqueue) }, act(9, ActKind::Cancel)];
    for act in &all {
        seam.engine.act(act).await;
    }
    assert!(seam.queue.changed().await.unwrap(), "an act is news");
    assert_eq!(seam.queue.acts(START, 2).await.unwrap(), all[..2]);
    let mut tx = seam.queue.begin().await.unwrap();
    tx.acts_logged(&[ActId(3), ActId(9), ActId(77)]).await.unwrap();
    tx.commit(&[], None, START).await.unwrap();
    assert_eq!(seam.queue.acts(START, 9).await.unwrap(), all[1..2]);
}

pub async fn an_act_that_has_not_ended_is_returned_once_it_has_been_quiet<E: Engine>() {
    let mut seam = Seam::<E>::new().await;
    seam.engine.act(&open(1, START)).await;
    assert_eq!(seam.queue.acts(START.minus(Duration::from_millis(1)), 9).await.unwrap(), []);
    assert_eq!(seam.queue.acts(START, 9).await.unwrap(), [open(1, START)]);
}

pub async fn acts_are_logged_once_also_those_of_a_time_without_a_daemon<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.work().await;
    bed.engine.act(&act(1, ActKind::Hold)).await;
    bed.worker.turn().await.unwrap();
    assert_eq!(said(&log), ["hold: ann held a"], "with the next turn");
    bed.work().await;
    bed.engine.act(&Act { rows: 1, ..act(2, ActKind::Retry) }).await;
    bed.engine.act(&Act { scope: Some("*".to_owned()), ..act(3, ActKind::Cancel) }).await;
    let mut bed = bed.restart().await;
    bed.work().await;
    bed.clock.advance(2 * MINUTE);
    bed.work().await;
    let mut bed = bed.restart().await;
    bed.work().await;
    assert_eq!(said(&log)[1..], ["retry: ann retried 1 row of a", "cancel: ann cancelled 3 rows of everything"]);
    let last = log.entries().into_iter().rfind(|entry| entry["event"] == "operator_act").unwrap();
    let of = |name: &str| last[name].to_string();
    let fields = ["level", "operator", "scope", "rows", "detail", "ended"].map(of);
    assert_eq!(fields, ["\"INFO\"", "\"ann\"", "\"*\"", "3", "\"dead rows\"", "true"]);
}

pub async fn an_act_whose_command_was_killed_is_logged_after_a_minute<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.work().await;
    bed.engine.act(&open(1, START)).await;
    bed.work().await;
    bed.clock.advance(MINUTE - Duration::from_millis(1));
    bed.work().await;
    assert_eq!(said(&log), [""; 0], "its command may be at work");
    for _ in 0..2 {
        bed.clock.advance(MINUTE);
        bed.work().await;
    }
    let cut = "; the command has not ended: it waits for its input, or was killed";
    assert_eq!(said(&log), [format!("retry: ann retried 3 rows of a{cut}")]);
}

pub async fn an_act_that_cannot_be_marked_yet_is_not_logged_again<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan::default()).await;
    bed.work().await;
    bed.engine.act(&act(1, ActKind::Release)).await;
    bed.engine.shut_out().await;
    for _ in 0..3 {
        bed.worker.turn().await.unwrap_err();
        bed.clock.advance(2 * MINUTE);
    }
    bed.engine.let_in().await;
    bed.work().await;
    let mut bed = bed.restart().await;
    bed.work().await;
    assert_eq!(said(&log), ["release: ann released a"]);
}

pub async fn many_acts_are_logged_over_several_turns<E: Engine>() {
    let log = Log::default();
    let _guard = log.capture();
    let mut bed = Bed::<E>::new(Plan::default()).await;
    for id in 1..=250 {
        bed.engine.act(&act(id, ActKind::Hold)).await;
    }
    bed.worker.turn().await.unwrap();
    assert_eq!(said(&log).len(), 100);
    bed.work().await;
    assert_eq!(said(&log).len(), 250);
}

tests!($ acts:
    an_act_is_returned_until_it_is_logged_the_oldest_first,
    an_act_that_has_not_ended_is_returned_once_it_has_been_quiet,
    acts_are_logged_once_also_those_of_a_time_without_a_daemon,
    an_act_whose_command_was_killed_is_logged_after_a_minute,
    an_act_that_cannot_be_marked_yet_is_not_logged_again,
    many_acts_are_logged_over_several_turns,
);
