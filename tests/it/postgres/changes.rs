//! Rows and holds that others change while the leader is about to claim rows: what was reported as cancelled is never sent.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use audio_cache_sweeper::{
    model::{
        deletion::{Batch, DeletionId},
        outcome::{Scope, Verdict},
    },
    queue::{
        Claim, Committed, Place, Queue as _, Tx,
        postgres::{self, Producer, Transaction},
    },
    sandbox::Options,
};
use tokio::time::timeout;
use uuid::Uuid;

use super::commands;
use crate::{
    cluster::cluster,
    daemon::{Daemon, configure, finish, sandbox},
    engines::postgres::Postgres,
    suite::{
        bed::{self, Bed, Plan},
        engine::{Engine as _, Request, Row, Setup, Wish},
        seam::{NOW, Seam, judged, lane, retry, settlement},
    },
};

const SETUP: Setup = Setup { busy_timeout: Duration::from_secs(10), in_memory: true };

/// What `docs` tell somebody who removes rows with SQL.
const BY_HAND: &str = "BEGIN; SELECT sweeper.between_turns(); DELETE FROM sweeper.deletions WHERE entry_id = '2'";

/// An open queue with three rows, of which the first is in flight. Whoever waits has time.
async fn three() -> Option<Seam<Postgres>> {
    cluster()?;
    let mut engine = Postgres::create(SETUP).await;
    let rows: Vec<Row> = (1..=3).map(|id| Row::new(id, "a", &id.to_string())).collect();
    engine.put(&rows, &[Request::new(8, "a", &[1])]).await;
    let mut queue = engine.open().await;
    queue.changed().await.unwrap();
    Some(Seam { queue, engine })
}

async fn producer(options: &postgres::Options) -> Producer {
    Producer::join(options).await.unwrap()
}

/// Looks, and makes a claim of all due rows but the first, which is in flight.
async fn claim(tx: &mut Transaction<'_>) -> Vec<Claim> {
    let look = tx.look(&[lane("a")], 20, &[DeletionId(1)], false, NOW).await.unwrap().remove(0);
    let rows: Vec<_> = look.due.into_iter().map(|row| row.deletion).collect();
    let request = tx.next_request_id();
    vec![Claim { request, correlation_id: Uuid::from_u128(7), batch: Batch::new(lane("a"), rows).unwrap() }]
}

/// The rows that a new look finds.
async fn found(seam: &mut Seam<Postgres>) -> Vec<i64> {
    seam.queue.changed().await.unwrap();
    let mut tx = seam.queue.begin().await.unwrap();
    let look = tx.look(&[lane("a")], 20, &[DeletionId(1)], false, NOW).await.unwrap().remove(0);
    look.due.iter().map(|row| row.deletion.id.0).collect()
}

/// The requests that were claimed after the eighth.
async fn claimed(seam: &mut Seam<Postgres>) -> usize {
    seam.engine.requests().await.iter().filter(|request| request.id > 8).count()
}

/// Whether this is still waiting after a tenth of a second.
async fn waits(work: impl Future) -> bool {
    timeout(Duration::from_millis(100), work).await.is_err()
}

#[tokio::test]
async fn a_row_that_is_cancelled_between_the_look_and_the_commit_is_not_claimed_and_the_rest_is_committed() {
    let Some(mut seam) = three().await else { return };
    let mut command = producer(&seam.engine.options).await;
    let mut tx = seam.queue.begin().await.unwrap();
    tx.settle([settlement(8, vec![judged(1, Verdict::Deleted)])].iter()).await.unwrap();
    let claims = claim(&mut tx).await;
    assert_eq!(claims[0].batch.len(), 2);
    let ids = command.pending(None).await.unwrap();
    let cancelled = command.cancel(&ids[1..2], NOW).await.unwrap();
    assert_eq!((cancelled.done, cancelled.in_flight), (1, 0));
    assert_eq!(tx.commit(&claims, None, NOW).await.unwrap(), Committed::WithoutClaims);
    assert_eq!(claimed(&mut seam).await, 0);
    let settled = seam.engine.rows().await;
    assert_eq!(settled.iter().map(|row| row.state.as_str()).collect::<Vec<_>>(), ["deleted", "pending"]);
    assert_eq!(found(&mut seam).await, [3]);
    let mut tx = seam.queue.begin().await.unwrap();
    let claims = claim(&mut tx).await;
    assert_eq!(tx.commit(&claims, None, NOW).await.unwrap(), Committed::Whole, "the leader knows of it now");
}

#[tokio::test]
async fn a_command_waits_for_the_turn_under_way_and_knows_then_what_is_in_flight() {
    let Some(mut seam) = three().await else { return };
    let mut command = producer(&seam.engine.options).await;
    let ids = command.pending(None).await.unwrap();
    let mut tx = seam.queue.begin().await.unwrap();
    // A row that comes back is written before the look: from then on, the turn is under way.
    tx.settle([settlement(8, vec![judged(1, retry(9))])].iter()).await.unwrap();
    let claims = claim(&mut tx).await;
    let mut cancelling = pin!(command.cancel(&ids, NOW));
    assert!(waits(&mut cancelling).await);
    assert_eq!(tx.commit(&claims, None, NOW).await.unwrap(), Committed::Whole);
    let cancelled = cancelling.await.unwrap();
    assert_eq!((cancelled.done, cancelled.in_flight), (3, 2), "the two that were claimed meanwhile");
}

#[tokio::test]
async fn a_turn_that_waits_for_somebody_who_removes_rows_by_hand_sees_that_they_are_gone() {
    let Some(mut seam) = three().await else { return };
    // The second time, the statements are prepared.
    for (removed, left) in [("2", vec![3]), ("3", vec![])] {
        let mut tx = seam.queue.begin().await.unwrap();
        let claims = claim(&mut tx).await;
        seam.engine.execute(&BY_HAND.replace("'2'", &format!("'{removed}'"))).await;
        let mut committing = Box::pin(tx.commit(&claims, None, NOW));
        assert!(waits(&mut committing).await, "the turn is kept out");
        seam.engine.execute("COMMIT").await;
        assert_eq!(committing.await.unwrap(), Committed::WithoutClaims);
        assert_eq!(claimed(&mut seam).await, 0);
        assert_eq!(found(&mut seam).await, left);
    }
}

#[tokio::test]
async fn a_hold_that_is_placed_between_the_look_and_the_commit_lets_nothing_out_and_an_act_does_not_matter() {
    let Some(mut seam) = three().await else { return };
    let mut command = producer(&seam.engine.options).await;
    let mut tx = seam.queue.begin().await.unwrap();
    let claims = claim(&mut tx).await;
    let act = "INSERT INTO acts (acted_at, act, operator, rows, updated_at) VALUES (1, 'enqueue', 'ann', 5, 1)";
    seam.engine.execute(act).await;
    assert_eq!(tx.commit(&claims, None, NOW).await.unwrap(), Committed::Whole);
    seam.settle(&[settlement(claims[0].request.0, vec![judged(2, retry(0)), judged(3, retry(0))])]).await;
    assert!(seam.queue.changed().await.unwrap());

    let mut tx = seam.queue.begin().await.unwrap();
    let claims = claim(&mut tx).await;
    let place = Place { scope: Scope::All, until_at: None, why: None };
    assert_eq!(command.hold(&place, NOW).await.unwrap(), None);
    assert_eq!(tx.commit(&claims, None, NOW).await.unwrap(), Committed::WithoutClaims);
    assert_eq!(command.concerned(&Scope::All).await.unwrap().in_flight, 1, "only what was in flight before");
}

#[tokio::test]
async fn a_row_that_was_cancelled_while_it_was_in_flight_is_settled_without_harm() {
    let Some(mut seam) = three().await else { return };
    let mut command = producer(&seam.engine.options).await;
    let ids = command.pending(None).await.unwrap();
    let cancelled = command.cancel(&ids[..1], NOW).await.unwrap();
    assert_eq!((cancelled.done, cancelled.in_flight), (1, 1));
    let mut before = seam.tables().await;
    seam.settle(&[settlement(8, vec![judged(1, Verdict::Deleted)])]).await;
    let after = seam.tables().await;
    before.requests = after.requests.clone();
    before.outcomes = after.outcomes.clone();
    assert_eq!(after, before, "no row is changed, and none comes back");
    assert_eq!((after.requests[0].answered_at, after.rows.len()), (Some(NOW), 2));
}

#[tokio::test]
async fn whoever_changes_rows_all_the_time_is_kept_out_of_every_fourth_turn() {
    let Some(mut seam) = three().await else { return };
    let edit =
        "SET lock_timeout = '50ms'; BEGIN; SELECT sweeper.between_turns(); UPDATE deletions SET batch_max = 19; COMMIT";
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        let mut tx = seam.queue.begin().await.unwrap();
        let claims = claim(&mut tx).await;
        if seam.engine.try_to(edit).await.is_err() {
            outcomes.push("kept out");
            seam.engine.execute("ROLLBACK").await;
        }
        match tx.commit(&claims, None, NOW).await.unwrap() {
            Committed::Whole => outcomes.push("claimed"),
            Committed::WithoutClaims => outcomes.push("refused"),
        }
        // The lane has changed.
        seam.engine.execute("BEGIN; SELECT sweeper.between_turns(); UPDATE deletions SET batch_max = 20; COMMIT").await;
    }
    assert_eq!(outcomes, ["refused", "refused", "refused", "kept out", "claimed", "refused"]);
}

/// Entries that commands have reported as cancelled and not in flight.
type Reported = Arc<Mutex<HashSet<String>>>;

/// Cancels one row after the other, of those that are left, until it is told to stop.
#[tokio::main(flavor = "current_thread")]
async fn cancel_at_random(
    options: postgres::Options,
    seed: u64,
    entries: HashMap<i64, String>,
    stop: Arc<AtomicBool>,
    reported: Reported,
) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut command = producer(&options).await;
    let mut ids: Vec<i64> = entries.keys().copied().collect();
    ids.sort_unstable();
    while !stop.load(Ordering::Relaxed) && !ids.is_empty() {
        let id = ids.swap_remove(rng.usize(..ids.len()));
        let cancelled = command.cancel(&[DeletionId(id)], NOW).await.unwrap();
        if cancelled.done == 1 && cancelled.in_flight == 0 {
            reported.lock().unwrap().insert(entries[&id].clone());
        }
    }
}

#[tokio::test]
async fn nothing_that_four_commands_have_cancelled_arrives_and_the_worker_goes_on() {
    if cluster().is_none() {
        return;
    }
    let engine = Postgres::create(Setup { in_memory: false, ..SETUP }).await;
    let mut plan = Plan::default();
    plan.sandbox.latency = Duration::from_millis(5);
    plan.settings.batch_size = 5;
    plan.settings.linger = Duration::ZERO;
    let mut bed = Bed::on(engine, plan).await;
    let wishes: Vec<Wish> = (1..=6_000).map(|id| Wish::of(&format!("a{}", id % 7), &id.to_string())).collect();
    bed.enqueue(&wishes).await;
    bed.worker.turn().await.unwrap();
    let rows: Vec<(i64, String)> = bed.query("SELECT id, entry_id FROM deletions WHERE state <> 'new'").await;
    assert_eq!(rows.len(), 6_000);
    let (stop, reported) = (Arc::new(AtomicBool::default()), Reported::default());
    let commands: Vec<_> = (0..4)
        .map(|seed| {
            let (options, stop, reported) = (bed.options.clone(), Arc::clone(&stop), Arc::clone(&reported));
            let entries = rows.iter().cloned().collect();
            std::thread::spawn(move || cancel_at_random(options, seed, entries, stop, reported))
        })
        .collect();
    bed.work().await;
    stop.store(true, Ordering::Relaxed);
    commands.into_iter().for_each(|command| command.join().unwrap());
    let sent: Vec<String> = bed.sent().concat();
    let reported = reported.lock().unwrap();
    let broken: Vec<&String> = sent.iter().filter(|entry| reported.contains(*entry)).collect();
    assert_eq!(broken, Vec::<&String>::new());
    assert!(reported.len() > 100 && sent.len() > 100, "{} cancelled, {} sent", reported.len(), sent.len());
    assert!(reported.len() + sent.len() <= 6_000);
}

#[tokio::test]
async fn beside_a_daemon_every_row_is_either_sent_or_cancelled_but_those_that_the_command_calls_in_flight() {
    let Some(scene) = commands::scene().await else { return };
    let sandbox = sandbox(Options { latency: Duration::from_millis(20), ..Options::default() }).await;
    let mut run = configure(scene.command(&[]), &sandbox);
    run.env("SWEEPER__DELIVERY__BATCH_SIZE", "3").env("SWEEPER__RATE_LIMIT__REQUESTS_PER_SECOND", "50");
    run.env("SWEEPER__RATE_LIMIT__BURST", "2");
    let mut daemon = Daemon::start(run).until("started").await;
    let ids: Vec<String> = (1..=600).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let enqueue = scene.command(&[&["enqueue", "--agent", "a"], &ids[..]].concat());
    assert_eq!(finish(enqueue).await.0, 0);
    let (mut cancelled, mut in_flight) = (0, 0);
    for (arrived, arguments) in [(5, vec!["--agent", "a", "500", "501"]), (10, vec!["--all"])] {
        sandbox.arrived(arrived).await;
        let (code, out, err) =
            finish(scene.command(&[&["cancel", "--yes", "--as", "ann"], &arguments[..]].concat())).await;
        assert_eq!(code, 0, "{err}");
        cancelled += number(&out, "cancelled ");
        in_flight += if err.is_empty() { 0 } else { number(&err, "") };
    }
    for _ in ["enqueue", "cancel", "cancel"] {
        daemon = daemon.until("operator_act").await;
    }
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.0, 0);
    let sent: HashSet<String> = sandbox.requests().iter().flat_map(bed::ids).collect();
    assert_eq!(
        sent.len() + cancelled - in_flight,
        600,
        "{} sent, {cancelled} cancelled, {in_flight} in flight",
        sent.len()
    );
    assert!(sent.len() >= 30 && cancelled > 100);
}

/// The number after these words.
fn number(text: &str, words: &str) -> usize {
    text.strip_prefix(words).and_then(|rest| rest.split_whitespace().next()).unwrap().parse().unwrap()
}
