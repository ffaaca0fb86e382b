//! Taking over, in one process and with clocks that the test moves.

use std::time::Duration;

use audio_cache_sweeper::{
    api::{self, Api},
    model::{clock::Clock, deletion::State, outcome::Cause},
    pace::{Pace, RateLimit},
    queue::{
        Queue as _, QueueError as _, Remedy,
        postgres::{Address, Candidate, Options, Store},
    },
    sandbox::{Mood, Sandbox},
    worker::{Settings, Turn, Until, Worker},
};

use super::{
    scene::SLACK,
    way::{Passes, Way},
};
use crate::{
    cluster::{OWNER, cluster},
    daemon::{Daemon, configured},
    engines::postgres::{LEASE, Postgres, open},
    suite::{
        bed::{KEY, Plan, START},
        engine::{Engine as _, Setup, Wish},
    },
};

/// A daemon in this process, with a clock of its own, and the API.
struct Leader {
    worker: Worker<Store>,
    clock: Clock,
}

struct Scene {
    engine: Postgres,
    sandbox: Sandbox,
}

impl Scene {
    async fn new() -> Option<Self> {
        cluster()?;
        let engine = Postgres::create(Setup { busy_timeout: Duration::from_secs(5), in_memory: false }).await;
        let sandbox = Sandbox::start(([127, 0, 0, 1], 0).into(), Plan::default().sandbox).await.unwrap();
        Some(Self { engine, sandbox })
    }

    /// A daemon takes over. Each batch is one row.
    async fn take_over(&self, rate: RateLimit) -> Leader {
        let clock = Clock::manual(START);
        let store = loop {
            // The session of a leader that was dropped may have the lock for a moment yet.
            match Store::open(self.engine.options.clone(), &clock).await {
                Ok(store) => break store,
                Err(error) => assert!(error.to_string().contains("another sweeper"), "{error}"),
            }
        };
        let api = Api::new(api::Options {
            base_url: self.sandbox.url().parse().unwrap(),
            key: KEY.into(),
            proxy: None,
            ca_file: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: REQUEST_TIMEOUT,
        });
        let plan = Plan::default();
        let settings = Settings { batch_size: 1, request_timeout: REQUEST_TIMEOUT, ..plan.settings };
        let (pace, rng) = (Pace::new(rate, plan.growth), fastrand::Rng::with_seed(7));
        let worker = Worker::new(store, api.unwrap(), pace, settings, clock.clone(), rng).await.unwrap();
        Leader { worker, clock }
    }

    async fn insert(&mut self, rows: usize) {
        let wishes: Vec<Wish> = (0..rows).map(|row| Wish::of("a", &row.to_string())).collect();
        self.engine.enqueue(&wishes).await;
    }
}

impl Leader {
    /// How many requests leave now.
    async fn sends(&mut self) -> usize {
        let mut all = 0;
        loop {
            let Turn { sent, settled, in_flight, wait } = self.worker.turn().await.unwrap();
            all += sent;
            if in_flight > 0 {
                self.worker.wait_for_a_call().await;
            } else if sent + settled == 0 && wait != Some(Duration::ZERO) {
                return all;
            }
        }
    }
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

fn limit(requests_per_second: f64, burst: u32) -> RateLimit {
    RateLimit { requests_per_second, burst: burst.try_into().unwrap() }
}

#[tokio::test]
async fn a_call_that_would_leave_after_the_lease_is_not_sent_and_costs_nothing() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.insert(2).await;
    let mut leader = scene.take_over(limit(100.0, 100)).await;
    let claimed = loop {
        let sent = leader.worker.turn().await.unwrap().sent;
        if sent > 0 {
            break sent;
        }
    };
    // The claims are committed, and no call has begun. Now the process stands still for as long as the lease.
    leader.clock.advance(LEASE);
    for _ in 0..claimed {
        leader.worker.wait_for_a_call().await;
    }
    assert_eq!((scene.sandbox.requests().len(), scene.engine.unanswered().await.len()), (0, claimed));
    leader.worker.turn().await.unwrap();
    let requests = scene.engine.requests().await;
    assert!(requests[..claimed].iter().all(|request| request.fault == Some(Cause::Unreachable)), "{requests:?}");
    // That turn has shown that this daemon still leads, so the rows go out again.
    leader.sends().await;
    assert_eq!(scene.sandbox.requests().len(), 2);
    let rows = scene.engine.rows().await;
    assert!(rows.iter().all(|row| row.is(State::Deleted) && row.attempts == 1 && !row.maybe_done), "{rows:?}");
    assert_eq!(scene.engine.holds().await, []);
}

#[tokio::test]
async fn the_limiter_of_a_daemon_that_takes_over_begins_empty_and_that_of_the_first_one_full() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.insert(20).await;
    let mut first = scene.take_over(limit(1.0, 5)).await;
    assert_eq!(first.sends().await, 5);
    drop(first);
    let mut second = scene.take_over(limit(1.0, 5)).await;
    assert_eq!(second.sends().await, 0);
    second.clock.advance(Duration::from_secs(3));
    assert_eq!(second.sends().await, 3);
}

#[tokio::test]
async fn a_daemon_that_takes_over_does_not_send_what_may_be_on_its_way() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.insert(1).await;
    scene.sandbox.script([Mood::Hang]);
    let mut first = scene.take_over(limit(100.0, 100)).await;
    assert_eq!(first.worker.turn().await.unwrap().sent, 1);
    scene.sandbox.arrived(1).await;
    drop(first);
    let mut second = scene.take_over(limit(100.0, 100)).await;
    second.clock.advance(REQUEST_TIMEOUT - Duration::from_millis(1));
    assert_eq!(second.sends().await, 0);
    second.clock.advance(Duration::from_millis(1));
    assert_eq!(second.sends().await, 1);
    let row = scene.engine.rows().await.remove(0);
    assert!(row.is(State::Deleted) && row.attempts == 2, "{row:?}");
}

#[tokio::test]
async fn a_daemon_whose_lock_another_one_has_taken_ends_its_work_and_writes_nothing() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.insert(1).await;
    scene.sandbox.script([Mood::Gate]);
    let mut first = scene.take_over(limit(100.0, 100)).await;
    assert_eq!(first.worker.turn().await.unwrap().sent, 1);
    scene.sandbox.arrived(1).await;
    let end = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'sweeper leader'";
    scene.engine.query::<(i64,)>(end).await;
    let second = scene.take_over(limit(100.0, 100)).await;
    let (rows, requests) = (scene.engine.rows().await, scene.engine.requests().await);
    // The answer comes, and is not written any more.
    scene.sandbox.open_gate();
    let error = first.worker.run(std::future::pending(), Until::Told).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Lost, "{error}");
    assert_eq!((scene.engine.rows().await, scene.engine.requests().await), (rows, requests));
    drop(second);
}

#[tokio::test]
async fn another_database_behind_the_same_name_is_refused() {
    let Some(server) = cluster() else { return };
    let (name, other) = (server.make_database("template1").await, server.make_database("template1").await);
    let address = Address::parse(&[&server.url(OWNER, &name)]).unwrap();
    let mut queue =
        open(&Options { address, busy_timeout: Duration::ZERO, lease: LEASE, request_timeout: Duration::ZERO }).await;
    let mut conn = server.connect("postgres", "postgres").await;
    let sql = format!(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}';
         ALTER DATABASE {name} RENAME TO {name}_before; ALTER DATABASE {other} RENAME TO {name}"
    );
    for sql in sql.split(';') {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    }
    assert_eq!(queue.changed().await.unwrap_err().remedy(), Remedy::Wait, "the session is gone");
    let error = queue.changed().await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::End, "{error}");
    assert!(error.to_string().contains("another database answers than before"), "{error}");
}

#[tokio::test]
async fn a_program_that_is_older_than_the_tables_stands_by_and_says_so() {
    let Some(mut scene) = Scene::new().await else { return };
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (99, 'newer', true, '', 0)";
    scene.engine.execute(newer).await;
    let dir = tempfile::tempdir().unwrap();
    let mut command = configured(dir.path(), &scene.sandbox);
    command.env("SWEEPER__DATABASE__URL", scene.engine.database.url()).env("SWEEPER__LOG__FORMAT", "json");
    let daemon = Daemon::start(command).until("standby").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    scene.engine.execute("DELETE FROM _sqlx_migrations WHERE version = 99").await;
    assert_eq!((code, log.count("standby", "WARN")), (0, 1));
    assert!(
        log.last("standby", "why").ends_with("made by a newer sweeper (schema 99); use that version or a newer one")
    );
    assert_eq!(scene.engine.query::<(i64,)>("SELECT epoch FROM leadership").await, [(0,)]);
}

#[tokio::test]
async fn a_daemon_that_stands_by_gives_a_server_up_that_is_silent_for_a_lease() {
    let Some(scene) = Scene::new().await else { return };
    let leader = scene.take_over(limit(1.0, 1)).await;
    let way = Way::to(cluster().unwrap().dir());
    let url = format!("postgres://{OWNER}@localhost/{}?host={}", scene.engine.database.name(), way.dir().display());
    let lease = Duration::from_secs(2);
    let options = Options { address: Address::parse(&[&url]).unwrap(), lease, ..scene.engine.options.clone() };
    let clock = Clock::system();
    let candidate = Candidate::connect(options, &clock).await.unwrap();
    way.set(Passes::Nothing);
    let begun = clock.elapsed();
    let error = candidate.try_to_lead().await.unwrap_err();
    let took = clock.elapsed() - begun;
    assert!(error.is_temporary() && error.to_string().contains("the server has not answered for 2 s"), "{error}");
    assert!((lease..lease + SLACK).contains(&took), "{took:?}");
    drop(leader);
}
