//! Commits of which the leader does not hear: they may have happened.

use std::{collections::BTreeMap, time::Duration};

use audio_cache_sweeper::{
    model::{
        backoff::Backoff,
        deletion::{Batch, RequestId, State},
        limits::{ConcurrencyReason, RateReason},
        outcome::Verdict,
    },
    queue::{Claim, InEffect, Queue as _, QueueError as _, Remedy, Tx as _, postgres::Store},
    sandbox::Options,
    worker::Turn,
};
use uuid::Uuid;

use super::{
    proxy::{Break, Proxy},
    scene,
};
use crate::{
    cluster::cluster,
    engines::postgres::{Postgres, open},
    suite::{
        bed::{Bed, Plan},
        engine::{Engine as _, Request, Row, Setup},
        seam::{NOW, Seam, judged, lane, retry, settlement},
    },
};

/// An open queue with three rows, of which the first is in a request; and the way to it, which can break.
async fn on_a_way(proxy: &Proxy) -> Seam<Postgres> {
    let rows: Vec<Row> = (1..=3).map(|id| Row::new(id, "a", &id.to_string())).collect();
    let Seam { queue, engine } = Seam::<Postgres>::with(&rows, &[Request::new(8, "a", &[1])]).await;
    queue.close().await.unwrap();
    let address = proxy.address(engine.database.name());
    let mut queue = open(&audio_cache_sweeper::queue::postgres::Options { address, ..engine.options.clone() }).await;
    // Nothing is claimed before what others have changed is read.
    queue.changed().await.unwrap();
    Seam { queue, engine }
}

/// Settles request 8 and claims the other rows. Returns the error of the commit, and the ID of the claim.
async fn turn(queue: &mut Store, verdict: Verdict, proxy: &Proxy, breaks: Break) -> (Option<Remedy>, RequestId) {
    let mut tx = queue.begin().await.unwrap();
    tx.settle([settlement(8, vec![judged(1, verdict)])].iter()).await.unwrap();
    let look = tx.look(&[lane("a")], 20, &[], false, NOW).await.unwrap().remove(0);
    let rows: Vec<_> = look.due.into_iter().map(|row| row.deletion).collect();
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [2, 3]);
    let request = tx.next_request_id();
    let claim = Claim { request, correlation_id: Uuid::from_u128(7), batch: Batch::new(lane("a"), rows).unwrap() };
    proxy.set(breaks);
    let committed = tx.commit(&[claim], None, NOW).await;
    (committed.err().map(|error| error.remedy()), request)
}

/// Commits something, so that its statements are prepared: the next commit is one message to the server, and one answer.
async fn commit_once(queue: &mut Store) {
    let retry = Backoff::new(Duration::from_secs(1), Duration::from_secs(2)).unwrap();
    let linger = Duration::ZERO;
    let settings = InEffect {
        requests_per_second: 1.0,
        rate_ceiling: 1.0,
        rate_reason: RateReason::Ceiling,
        concurrency: 1,
        concurrency_ceiling: 1,
        concurrency_reason: ConcurrencyReason::Ceiling,
        batch_size: 1,
        linger,
        retry,
        learnt: None,
    };
    let tx = queue.begin().await.unwrap();
    tx.commit(&[], Some(&settings), NOW).await.unwrap();
}

#[tokio::test]
async fn claims_of_a_commit_that_was_not_heard_of_are_taken_back_and_what_it_settled_stays() {
    // A row that ends is settled with the claims in one statement. One that comes back takes a transaction of the server.
    for (verdict, last_message) in [(Verdict::Deleted, &b"{2,3}"[..]), (retry(9), b"COMMIT")] {
        if scene().await.is_none() {
            return;
        }
        let proxy = Proxy::new();
        let mut seam = on_a_way(&proxy).await;
        commit_once(&mut seam.queue).await;
        let (remedy, claimed) = turn(&mut seam.queue, verdict, &proxy, Break::AnswerTo(last_message.to_vec())).await;
        assert_eq!(remedy, Some(Remedy::Wait), "{verdict:?}");
        let ids = |requests: Vec<Request>| requests.iter().map(|request| request.id).collect::<Vec<_>>();
        // The server may be at it yet.
        while ids(seam.engine.requests().await) != [8, claimed.0] {
            tokio::task::yield_now().await;
        }
        seam.queue.undo().await;
        assert_eq!(ids(seam.engine.requests().await), [8], "{verdict:?}: nothing was sent, so nothing is in flight");
        assert_eq!(seam.queue.orphans().await.unwrap(), []);
        let settled = seam.engine.rows().await.remove(0);
        assert_eq!((settled.attempts, settled.request), (1, Some(8)), "{verdict:?}");
        let (remedy, again) = turn(&mut seam.queue, verdict, &proxy, Break::Never).await;
        assert!(remedy.is_none() && again > claimed, "{verdict:?}");
        assert_eq!(seam.engine.rows().await[0], settled, "settled once");
        assert_eq!(ids(seam.engine.requests().await), [8, again.0]);
    }
}

#[tokio::test]
async fn wherever_the_way_to_the_server_breaks_every_id_is_sent_once_and_every_row_ends() {
    if cluster().is_none() {
        return;
    }
    for seed in 0..6 {
        let (proxy, mut rng) = (Proxy::new(), fastrand::Rng::with_seed(seed));
        let mut engine = Postgres::create(Setup { busy_timeout: Duration::from_secs(5), in_memory: true }).await;
        engine.options.address = proxy.address(engine.database.name());
        let mut plan =
            Plan { sandbox: Options { failing: vec!["7".to_owned()], ..Plan::default().sandbox }, ..Plan::default() };
        plan.settings.policy.ask_singly = false;
        let mut bed = Bed::on(engine, plan).await;
        for agent in ["a", "b", "c"] {
            bed.insert_many(agent, 60).await;
        }
        proxy.set(Break::After(rng.usize(0..60), rng));
        let mut breaks = 0;
        while bed.pending().await > 0 {
            match bed.worker.turn().await {
                Ok(Turn { in_flight: 1.., .. }) => bed.worker.wait_for_a_call().await,
                Ok(_) => bed.clock.advance(Duration::from_secs(1)),
                Err(error) => {
                    assert_eq!(error.remedy(), Remedy::Wait, "seed {seed}: {error}");
                    breaks += 1;
                }
            }
        }
        assert!(breaks > 3, "seed {seed}: {breaks} breaks");
        let mut sent: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (agent, ids) in bed.agents().into_iter().zip(bed.sent()) {
            ids.into_iter().for_each(|id| *sent.entry((agent.clone(), id)).or_default() += 1);
        }
        // A row that the API fails has three attempts.
        let wrong: Vec<_> = sent.iter().filter(|((_, id), times)| **times != if id == "7" { 3 } else { 1 }).collect();
        assert!(sent.len() == 180 && wrong.is_empty(), "seed {seed}: {wrong:?}");
        assert_eq!(bed.unanswered().await, [], "seed {seed}");
        assert_eq!((bed.count_in(State::Deleted).await, bed.count_in(State::Dead).await), (177, 3), "seed {seed}");
    }
}
