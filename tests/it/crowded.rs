//! APIs that suffer only from many requests at a time, and the real worker against them, in virtual time.

use audio_cache_sweeper::queue::sqlite::Store;
use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use audio_cache_sweeper::{
    api::{Reply, Transport},
    model::{
        backoff::Backoff,
        clock::Clock,
        deletion::Batch,
        outcome::{Answer, Fault},
    },
    pace::{Pace, RateLimit},
    queue::sqlite::{Options, Producer, Synchronous},
    worker::Worker,
};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::bed::{Plan, START, open};

/// An answer takes so long while there are no more than [`BEARS`] requests. As long as the slower ones of the API's.
const LATENCY: Duration = Duration::from_millis(300);
const BEARS: usize = 4;
const CONCURRENCY: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Throttles,
    SlowsDown,
}

/// An answer that is on its way, and the elapsed time at which it is there.
type Pending = (Duration, Reply, oneshot::Sender<Reply>);

/// An API with more than [`BEARS`] requests at a time answers 429, or each the slower the more there are.
#[derive(Clone, Debug)]
struct Crowded {
    when: When,
    clock: Clock,
    pending: Arc<Mutex<Vec<Pending>>>,
    /// How many requests came in, and how many of them were throttled; the most at a time.
    counts: Arc<watch::Sender<(usize, usize, usize)>>,
}

impl Transport for Crowded {
    fn bulk_delete(&self, batch: &Batch, _: Uuid) -> impl Future<Output = Reply> + Send {
        let ids = batch.deletions().iter().map(|row| row.entry.as_str().to_owned()).collect();
        let answered = self.take_in(Answer { deleted: ids, failed: Vec::new() });
        async move { answered.await.unwrap() }
    }

    fn delete_one(&self, batch: &Batch, id: Uuid) -> impl Future<Output = Reply> + Send {
        self.bulk_delete(batch, id)
    }
}

impl Crowded {
    fn take_in(&self, answer: Answer) -> oneshot::Receiver<Reply> {
        let (sender, receiver) = oneshot::channel();
        let mut pending = self.pending.lock().unwrap();
        let at_a_time = pending.len() + 1;
        let ok = Reply { result: Ok(answer), status: Some(200), ..Reply::unheard(Fault::Lost, "") };
        let too_many = Fault::Status { status: 429, retry_after: None };
        let (took, reply) = match self.when {
            When::Throttles if at_a_time > BEARS => (LATENCY / 10, Reply::unheard(too_many, "too many at a time")),
            When::Throttles => (LATENCY, ok),
            When::SlowsDown => (LATENCY.mul_f64((at_a_time as f64 / BEARS as f64).max(1.0)), ok),
        };
        let throttled = usize::from(reply.result.is_err());
        pending.push((self.clock.elapsed() + took, reply, sender));
        self.counts.send_modify(|(all, of_them, most)| {
            (*all, *of_them, *most) = (*all + 1, *of_them + throttled, at_a_time.max(*most));
        });
        receiver
    }

    fn next_answer(&self) -> Option<Duration> {
        self.pending.lock().unwrap().iter().map(|(at, ..)| *at).min()
    }

    /// Answers one of those that are due.
    fn answer(&self) -> bool {
        let mut pending = self.pending.lock().unwrap();
        let due = pending.iter().position(|(at, ..)| *at <= self.clock.elapsed());
        let Some(due) = due else { return false };
        let (_, reply, sender) = pending.remove(due);
        sender.send(reply).unwrap();
        true
    }
}

struct Bench {
    api: Crowded,
    worker: Worker<Store, Crowded>,
    clock: Clock,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// A worker with so many rows to delete, one by one, and no limit of its own in the way.
    async fn new(when: When, rows: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue.db");
        let options = Options { path, busy_timeout: Duration::from_secs(5), synchronous: Synchronous::Normal };
        let store = open(&options).await;
        let ids: Vec<String> = (0..rows).map(|id| id.to_string()).collect();
        let mut producer = Producer::open(&options).await.unwrap();
        producer.insert(ids.iter().map(|id| ("a", id.as_str(), 0))).await.unwrap();
        let clock = Clock::manual(START);
        let counts = Arc::new(watch::Sender::new((0, 0, 0)));
        let api = Crowded { when, clock: clock.clone(), pending: Arc::default(), counts };
        let growth = Backoff::new(Duration::from_secs(1), Duration::from_secs(60)).unwrap();
        let rate = RateLimit { requests_per_second: 400.0, burst: 5.try_into().unwrap() };
        let pace = Pace::new(rate, growth).adaptive(CONCURRENCY, clock.elapsed());
        let mut settings = Plan::default().settings;
        (settings.batch_size, settings.concurrency) = (1, CONCURRENCY);
        let rng = fastrand::Rng::with_seed(1);
        let worker = Worker::new(store, api.clone(), pace, settings, clock.clone(), rng).await.unwrap();
        Self { api, worker, clock, _dir: dir }
    }

    /// Works for so long, and returns what came of it: requests, those throttled, most at a time.
    async fn work(&mut self, time: Duration) -> (usize, usize, usize) {
        let end = self.clock.elapsed() + time;
        let before = *self.api.counts.borrow();
        self.api.counts.send_modify(|(.., most)| *most = 0);
        while self.clock.elapsed() < end {
            let sent_before = self.worker.totals().requests;
            let turn = self.worker.turn().await.unwrap();
            let sent = (self.worker.totals().requests - sent_before) as usize;
            assert_eq!(sent, turn.sent);
            let total = self.worker.totals().requests as usize;
            self.api.counts.subscribe().wait_for(|(all, ..)| *all == total).await.unwrap();
            let now = self.clock.elapsed();
            let next = turn.wait.map(|wait| now + wait.max(Duration::from_micros(1)));
            let next = next.into_iter().chain(self.api.next_answer()).min().unwrap();
            self.clock.advance(next.saturating_sub(now));
            while self.api.answer() {
                self.worker.wait_for_a_call().await;
            }
        }
        let (all, throttled, most) = *self.api.counts.borrow();
        (all - before.0, throttled - before.1, most)
    }
}

#[tokio::test]
async fn throttling_that_starts_only_with_many_requests_at_a_time_is_found_and_kept_under() {
    let mut bench = Bench::new(When::Throttles, 6_000).await;
    let (_, throttled, most) = bench.work(Duration::from_secs(60)).await;
    assert!(throttled > 0 && most > BEARS, "it has to be found out");
    let (requests, throttled, _) = bench.work(Duration::from_secs(240)).await;
    let share = throttled as f64 / requests as f64;
    let used = (requests - throttled) as f64 / (240.0 * BEARS as f64 / LATENCY.as_secs_f64());
    assert!(share <= 0.01 && used >= 0.5, "{share:.4} throttled, {used:.3} of what it bears");
}

#[tokio::test]
async fn an_api_that_slows_down_with_many_requests_at_a_time_is_given_fewer() {
    let mut bench = Bench::new(When::SlowsDown, 3_000).await;
    let (.., most) = bench.work(Duration::from_secs(1)).await;
    assert_eq!(most, CONCURRENCY, "with no answers yet, all of it");
    bench.work(Duration::from_secs(60)).await;
    let (requests, throttled, most) = bench.work(Duration::from_secs(60)).await;
    let used = requests as f64 / (60.0 * BEARS as f64 / LATENCY.as_secs_f64());
    assert!(most <= 13 && throttled == 0 && used >= 0.95, "{most} at a time, {used:.3} of what it bears");
}
