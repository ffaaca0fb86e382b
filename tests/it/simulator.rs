//! A seeded simulator: the real worker, store, judge and pace on a real file, between producers, operators, an API and a
//! clock that all do what a seed draws. After every turn everything that must hold is checked.
//!
//! `cargo test simulator` runs a couple of hundred seeds; `SIMULATOR_SEEDS=10000` more of them, `SIMULATOR_SEED=17` that
//! one, and `-- --nocapture` shows the figures.
//!
//! What it cannot show, and what shows it instead:
//! * HTTP: the API client is replaced by a model (`contract`, `retry` and `hostile` go over the wire);
//! * a process that dies inside a turn: here it dies between turns, which with what SQLite commits or does not is the
//!   same, but for SQLite itself (`crash` cuts turns short at every step, and kills real processes);
//! * a power cut, and a disk that lies: nothing here does;
//! * a full or failing disk (`storage`); here the file is only locked by others;
//! * what only shows in real time: poll intervals, the gaps left for others, timeouts, signals (`binary`, `shutdown`);
//! * large queues: a few hundred rows a seed;
//! * two processes that write at the very same moment: others write between turns, or hold the lock through one.

mod bounds;
mod laws;
mod live;
mod model;
mod worlds;

use audio_cache_sweeper::queue::Queue as _;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    io::Write as _,
    panic,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use audio_cache_sweeper::{
    model::{
        backoff::Backoff,
        clock::{Clock, Timestamp},
        judge::{MAX_ASKS, Policy},
    },
    pace::{Pace, RateLimit},
    queue::sqlite::{self, Store, Synchronous},
    worker::{Settings, Turn, Worker},
};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, FromRow, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};

use crate::bed::{START, open};
use live::Live;
use model::{Model, Mood, NOT_A_NUMBER};
use worlds::{KINDS, Kind, World};

/// How many seeds `cargo test` tries.
const SEEDS: u64 = 200;
const STEPS: usize = 100;
const AGENTS: [&str; 4] = ["a", "b", "c", "d"];
const HOLD_BASE: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_secs(20_000);

/// What was done in a run, or in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    seeds: u64,
    turns: u64,
    calls: u64,
    faults: u64,
    crashes: u64,
    locks: u64,
    jumps: u64,
    rows_in: u64,
    deleted: u64,
    absent: u64,
    dead: u64,
    taken_out: u64,
    pruned: u64,
}

impl Figures {
    fn add(&mut self, other: Self) {
        let Self {
            seeds,
            turns,
            calls,
            faults,
            crashes,
            locks,
            jumps,
            rows_in,
            deleted,
            absent,
            dead,
            taken_out,
            pruned,
        } = other;
        self.seeds += seeds;
        self.turns += turns;
        self.calls += calls;
        self.faults += faults;
        self.crashes += crashes;
        self.locks += locks;
        self.jumps += jumps;
        self.rows_in += rows_in;
        self.deleted += deleted;
        self.absent += absent;
        self.dead += dead;
        self.taken_out += taken_out;
        self.pruned += pruned;
    }
}

/// A row of `deletions`, as far as it is checked.
#[derive(Clone, Debug)]
struct Row {
    id: i64,
    agent_id: String,
    entry_id: String,
    state: String,
    attempts: i64,
    asks: i64,
    maybe_done: i64,
    settled_at: Option<i64>,
    last_cause: Option<String>,
    /// Of its last request; "pruned" if that is not kept any more.
    verdict: Option<String>,
}

impl<'r> FromRow<'r, SqliteRow> for Row {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            agent_id: row.try_get("agent_id")?,
            entry_id: row.try_get("entry_id")?,
            state: row.try_get("state")?,
            attempts: row.try_get("attempts")?,
            asks: row.try_get("asks")?,
            maybe_done: row.try_get("maybe_done")?,
            settled_at: row.try_get("settled_at")?,
            last_cause: row.try_get("last_cause")?,
            verdict: row.try_get("verdict")?,
        })
    }
}

/// What is known of a row beside the database.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    /// Counted outcomes at the time its attempts were set to 0.
    counted_before: i64,
    /// An operator has made it dead: it must stay so.
    closed: bool,
}

struct Simulation {
    // Before `dir`, so that it goes first.
    worker: Option<Worker<Store, Model>>,
    model: Model,
    clock: Clock,
    conn: SqliteConnection,
    options: sqlite::Options,
    settings: Settings,
    rate: RateLimit,
    rng: fastrand::Rng,
    wishes: BTreeMap<(String, String), Wish>,
    /// The rows that were open when it was looked last, and since when the others were settled.
    open_before: BTreeSet<(String, String)>,
    settled_before: HashMap<(String, String), i64>,
    /// The latest time at which rows were pruned.
    pruned_at: i64,
    /// Requests whose outcomes have been compared with what was told.
    checked: BTreeSet<i64>,
    /// How many outcomes that count each row has had.
    counted: HashMap<i64, i64>,
    /// Each hold that has been seen, and the number of the last call before it.
    holds: HashMap<(String, String, Option<i64>, i64), usize>,
    /// The drawn mood of the API at this time: how many of a hundred calls go well.
    health: u8,
    figures: Figures,
    _dir: tempfile::TempDir,
}

/// An empty queue, and two connections to it: one for whoever writes to it, and the model's. No statement waits for a lock.
async fn new_queue() -> (tempfile::TempDir, sqlite::Options, [SqliteConnection; 2]) {
    // Nothing here cuts the power: where there is a file system in memory, it is as good.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let options = sqlite::Options {
        path: dir.path().join("queue.db"),
        busy_timeout: Duration::ZERO,
        synchronous: Synchronous::Normal,
    };
    Store::open(options.clone()).await.unwrap().close().await.unwrap();
    let connect = || async {
        let options = SqliteConnectOptions::new().filename(&options.path).busy_timeout(Duration::ZERO);
        options.disable_statement_logging().connect().await.unwrap()
    };
    let connections = [connect().await, connect().await];
    (dir, options, connections)
}

impl Simulation {
    async fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (dir, options, [conn, models]) = new_queue().await;
        let rate = RateLimit {
            requests_per_second: [0.7, 5.0, 40.0][rng.usize(..3)],
            burst: [1, 5, 30][rng.usize(..3)].try_into().unwrap(),
        };
        let policy = Policy {
            max_attempts: rng.u32(1..7),
            ask_singly: rng.u8(..4) > 0,
            retry: Backoff::new(Duration::from_secs(10), Duration::from_secs(300)).unwrap(),
            min_retry_after: Duration::from_secs(5),
            max_retry_after: Duration::from_secs(600),
        };
        let settings = Settings {
            batch_size: [20, 20, 20, 7, 1][rng.usize(..5)],
            concurrency: [1, 4, 16][rng.usize(..3)],
            linger: Duration::from_millis([0, 500, 20_000][rng.usize(..3)]),
            policy,
            after_faults: 3,
            longest_hold: Duration::from_secs(60),
            poll_interval: Duration::from_millis(100),
            retention: RETENTION,
            grace: Duration::ZERO,
        };
        let clock = Clock::manual(START);
        let model = Model::new(models, clock.clone(), rate, HOLD_BASE);
        let mut simulation = Self {
            worker: None,
            model,
            clock,
            conn,
            options,
            settings,
            rate,
            rng,
            wishes: BTreeMap::new(),
            open_before: BTreeSet::new(),
            settled_before: HashMap::new(),
            pruned_at: 0,
            checked: BTreeSet::new(),
            counted: HashMap::new(),
            holds: HashMap::new(),
            health: 60,
            figures: Figures { seeds: 1, ..Figures::default() },
            _dir: dir,
        };
        simulation.start().await;
        simulation
    }

    async fn start(&mut self) {
        let growth = Backoff::new(HOLD_BASE, Duration::from_secs(60)).unwrap();
        let pace = Pace::new(self.rate, growth);
        let pace = if self.rng.bool() { pace.adaptive(self.settings.concurrency, self.clock.elapsed()) } else { pace };
        let store = open(&self.options).await;
        let rng = self.rng.fork();
        let worker =
            Worker::new(store, self.model.clone(), pace, self.settings, self.clock.clone(), rng).await.unwrap();
        self.worker = Some(worker);
    }

    fn worker(&mut self) -> &mut Worker<Store, Model> {
        self.worker.as_mut().unwrap()
    }

    async fn execute(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.conn).await.unwrap();
    }

    async fn query<T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin>(&mut self, sql: &str) -> Vec<T> {
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut self.conn).await.unwrap()
    }

    async fn rows(&mut self) -> Vec<Row> {
        self.query(
            "SELECT *, coalesce(
                (SELECT verdict FROM outcomes
                 WHERE outcomes.request_id = deletions.request_id AND deletion_id = deletions.id),
                CASE WHEN NOT EXISTS (SELECT 1 FROM requests WHERE id = deletions.request_id) THEN 'pruned' END
             ) AS verdict
             FROM deletions ORDER BY id",
        )
        .await
    }

    fn counted(&self, row: i64) -> i64 {
        self.counted.get(&row).copied().unwrap_or(0)
    }

    /// One thing happens.
    async fn step(&mut self) {
        match self.rng.u8(..100) {
            0..=11 => self.produce().await,
            12..=39 => {
                self.turn().await;
            }
            40..=43 => self.work_for_a_while().await,
            44..=69 => self.answer_some().await,
            70..=82 => self.pass_time(),
            83..=88 => self.operate().await,
            89..=91 => self.turn_while_locked().await,
            92..=95 => self.crash().await,
            96..=97 => self.health = [0, 30, 60, 95][self.rng.usize(..4)],
            _ => {
                // With a jump of a day, there are rows to prune.
                self.pruned_at = self.pruned_at.max(self.clock.now().0);
                self.worker().do_chores().await.unwrap();
            }
        }
    }

    async fn produce(&mut self) {
        let agent = AGENTS[self.rng.usize(..AGENTS.len())];
        let now = self.clock.now().0;
        let mut sql = "BEGIN IMMEDIATE;".to_owned();
        let before: HashMap<(String, String), Row> =
            self.rows().await.into_iter().map(|row| ((row.agent_id.clone(), row.entry_id.clone()), row)).collect();
        for _ in 0..self.rng.usize(1..30) {
            let bad = if self.rng.u8(..50) == 0 { NOT_A_NUMBER } else { "" };
            let entry = format!("{bad}{}", self.rng.u32(1..40));
            let priority = [0, 0, 0, 5, -3][self.rng.usize(..5)];
            let due_at = [0, 0, 0, now + self.rng.i64(0..600_000)][self.rng.usize(..4)];
            let created_at = now - self.rng.i64(0..3_000);
            sql.push_str(&format!(
                "INSERT INTO deletions (agent_id, entry_id, priority, due_at, created_at)
                 VALUES ('{agent}', '{entry}', {priority}, {due_at}, {created_at});"
            ));
            let key = (agent.to_owned(), entry);
            let wish = match before.get(&key) {
                Some(row) if row.state == "pending" => continue,
                Some(row) => Wish { counted_before: self.counted(row.id), ..Wish::default() },
                None => Wish::default(),
            };
            self.figures.rows_in += 1;
            // Once in this transaction is enough; the second insert finds the row open.
            self.wishes.entry(key).and_modify(|known| *known = wish).or_insert(wish);
        }
        sql.push_str("COMMIT;");
        self.execute(&sql).await;
    }

    async fn turn(&mut self) -> Option<Duration> {
        let turn = self.worker().turn().await.unwrap();
        self.arrived(turn).await;
        self.figures.turns += 1;
        self.check().await;
        turn.wait
    }

    /// Turn after turn, with as much time between as the worker asks for.
    async fn work_for_a_while(&mut self) {
        for _ in 0..10 {
            let wait = self.turn().await;
            self.answer_some().await;
            self.clock.advance(wait.unwrap_or_default().clamp(Duration::from_millis(1), Duration::from_secs(120)));
        }
    }

    /// All calls that were sent have come in.
    async fn arrived(&mut self, turn: Turn) {
        assert!(turn.sent <= turn.in_flight, "{turn:?}");
        let calls = {
            let world = self.model.world();
            world.calls + turn.in_flight.saturating_sub(world.open.len())
        };
        self.model.arrived(calls as u64).await;
    }

    /// Another process writes through a whole turn, which must come to nothing and lose nothing.
    async fn turn_while_locked(&mut self) {
        let before = self.model.world().calls;
        self.execute("BEGIN IMMEDIATE").await;
        let turned = self.worker().turn().await;
        self.execute("ROLLBACK").await;
        match turned {
            Ok(Turn { settled, sent, .. }) => assert_eq!((settled, sent), (0, 0), "written through a lock"),
            Err(error) => assert!(error.is_temporary(), "{error}"),
        }
        assert_eq!(self.model.world().calls, before, "sent without a claim");
        self.figures.locks += 1;
    }

    fn draw_mood(&mut self) -> Mood {
        if self.rng.u8(..100) < self.health {
            return Mood::Ok;
        }
        self.figures.faults += 1;
        let done = self.rng.bool();
        let statuses = [400, 401, 403, 403, 404, 404, 408, 410, 413, 422, 302, 500, 502, 503, 504];
        match self.rng.u8(..14) {
            0 | 1 => Mood::Partial,
            2 => Mood::Silent,
            3 => Mood::Contradictory,
            4 => Mood::Strangers,
            5..=7 => Mood::Status(statuses[self.rng.usize(..statuses.len())]),
            8 | 9 => Mood::Throttled([429, 503][self.rng.usize(..2)], self.rng.u64(..900)),
            10 => Mood::Hang(done),
            11 => Mood::Reset(done),
            12 => Mood::Garbage,
            _ => Mood::Unreachable,
        }
    }

    async fn answer_some(&mut self) {
        for _ in 0..self.rng.usize(1..4) {
            let open = self.model.world().open.len();
            if open == 0 {
                return;
            }
            let (at, mood) = (self.rng.usize(..open), self.draw_mood());
            self.answer(at, mood).await;
        }
    }

    async fn answer(&mut self, at: usize, mood: Mood) {
        if let Mood::Hang(_) = mood {
            self.clock.advance(Duration::from_secs(30));
        }
        self.model.answer(at, mood, &mut self.rng);
        // It has come back when this is over; two that came back at once would do so in either order.
        self.worker().wait_for_a_call().await;
    }

    fn pass_time(&mut self) {
        let by = match self.rng.u8(..10) {
            0..=4 => Duration::from_millis(self.rng.u64(1..3_000)),
            5..=7 => Duration::from_secs(self.rng.u64(1..90)),
            8 => Duration::from_secs(self.rng.u64(1..3_600)),
            _ => {
                // Somebody sets the clock.
                let by = self.rng.i64(-3_600_000..3_600_000);
                let by = if self.rng.u8(..4) == 0 { by * 24 } else { by };
                self.clock.jump_to(Timestamp(self.clock.now().0 + by));
                self.figures.jumps += 1;
                return;
            }
        };
        self.clock.advance(by);
    }

    async fn operate(&mut self) {
        let agent = AGENTS[self.rng.usize(..AGENTS.len())];
        let scope = if self.rng.bool() { "*" } else { agent };
        let now = self.clock.now().0;
        match self.rng.u8(..8) {
            0 => {
                let until = match self.rng.u8(..4) {
                    0 => "NULL".to_owned(),
                    1 => "100000000000".to_owned(),
                    2 => (now + 30_000).to_string(),
                    _ => (now + 100_000_000_000).to_string(),
                };
                self.execute(&format!("INSERT INTO holds (scope, until_at) VALUES ('{scope}', {until})")).await;
            }
            1 | 2 => self.execute("DELETE FROM holds WHERE cause = 'operator'").await,
            3 => self.execute(&format!("DELETE FROM holds WHERE scope = '{scope}'")).await,
            4 => {
                for row in self.rows().await.into_iter().filter(|row| row.state == "dead") {
                    let counted_before = self.counted(row.id);
                    self.wishes.insert((row.agent_id, row.entry_id), Wish { counted_before, closed: false });
                }
                self.execute(
                    "UPDATE deletions SET state = 'pending', settled_at = NULL, attempts = 0, due_at = 0
                     WHERE state = 'dead'",
                )
                .await;
            }
            5 => {
                // Taken out, whether in flight or not.
                let some = format!("agent_id = '{agent}' AND id % 3 = 0 AND state = 'pending'");
                let gone: Vec<(String, String)> =
                    self.query(&format!("SELECT agent_id, entry_id FROM deletions WHERE {some}")).await;
                self.execute(&format!("DELETE FROM deletions WHERE {some}")).await;
                self.figures.taken_out += gone.len() as u64;
                gone.iter().for_each(|key| {
                    self.wishes.remove(key);
                });
            }
            6 => {
                let some = format!("agent_id = '{agent}' AND id % 5 = 0 AND state = 'pending'");
                for key in self.query(&format!("SELECT agent_id, entry_id FROM deletions WHERE {some}")).await {
                    self.wishes.get_mut(&key).unwrap().closed = true;
                }
                self.execute(&format!("UPDATE deletions SET state = 'dead', settled_at = {now} WHERE {some}")).await;
            }
            _ => {
                let sql = format!("UPDATE deletions SET priority = 9 WHERE agent_id = '{agent}' AND state = 'pending'");
                self.execute(&sql).await;
            }
        }
    }

    /// The daemon dies, and another one starts.
    async fn crash(&mut self) {
        let orphans: Vec<(i64,)> = self
            .query(
                "SELECT deletions.id FROM requests, json_each(requests.deletion_ids) AS row
                 JOIN deletions ON deletions.id = row.value
                 WHERE requests.answered_at IS NULL AND deletions.state = 'pending'",
            )
            .await;
        self.worker = None;
        self.model.crash(|| self.rng.bool());
        self.start().await;
        self.figures.crashes += 1;
        self.check().await;
        let rows: HashMap<i64, Row> = self.rows().await.into_iter().map(|row| (row.id, row)).collect();
        for (id,) in orphans {
            let row = &rows[&id];
            let lost = row.maybe_done == 1 && row.last_cause.as_deref() == Some("lost");
            assert!(lost && (row.state == "pending" || row.state == "dead"), "an orphan's row: {row:?}");
        }
    }

    /// Everything that holds whenever no turn is under way.
    async fn check(&mut self) {
        self.check_calls().await;
        self.check_answers().await;
        self.check_rows().await;
    }

    async fn check_calls(&mut self) {
        let (wrong, open): (Vec<String>, BTreeMap<String, (usize, String)>) = {
            let mut world = self.model.world();
            let open = world.open.iter().map(|call| (call.id.to_string(), (call.number, call.agent.clone()))).collect();
            (std::mem::take(&mut world.wrong), open)
        };
        assert!(wrong.is_empty(), "{wrong:#?}");

        // What is unanswered in the queue is what is unanswered in the world.
        let unanswered: Vec<(String,)> =
            self.query("SELECT correlation_id FROM requests WHERE answered_at IS NULL").await;
        let unanswered: BTreeSet<String> = unanswered.into_iter().map(|(id,)| id).collect();
        assert_eq!(unanswered, open.keys().cloned().collect(), "unanswered in the queue, and in the world");

        // Of a hold that has ended, one call may tell.
        let now = self.clock.now().0;
        let holds: Vec<(String, String, Option<i64>, i64)> =
            self.query("SELECT scope, cause, until_at, repeats FROM holds").await;
        let calls = self.model.world().calls;
        self.holds.retain(|hold, _| holds.contains(hold));
        for hold in holds {
            // First seen now: of the calls so far, those of this turn may be its probe and none else.
            let since = *self.holds.entry(hold.clone()).or_insert(calls);
            let (scope, _, until, _) = &hold;
            if until.is_some_and(|until| until <= now) {
                let probes: Vec<_> = open
                    .values()
                    .filter(|(number, agent)| *number > since && (scope == "*" || scope == agent))
                    .collect();
                assert!(probes.len() <= 1, "6: {probes:?} probe {hold:?}");
            }
        }
    }

    async fn check_rows(&mut self) {
        let mut missing: BTreeSet<(String, String)> = self.wishes.keys().cloned().collect();
        let (mut open, mut settled) = (BTreeSet::new(), HashMap::new());
        for row in self.rows().await {
            let key = (row.agent_id.clone(), row.entry_id.clone());
            match row.settled_at {
                None => drop(open.insert(key.clone())),
                Some(at) => drop(settled.insert(key.clone(), at)),
            }
            let Some(wish) = self.wishes.get(&key) else { panic!("nobody asked for {row:?}") };
            missing.remove(&key);
            assert!(["pending", "deleted", "absent", "dead"].contains(&row.state.as_str()), "1: {row:?}");
            assert_eq!(row.state == "pending", row.settled_at.is_none(), "{row:?}");
            assert!(row.attempts <= i64::from(self.settings.policy.max_attempts), "7: {row:?}");
            let outcomes = self.counted(row.id) - wish.counted_before;
            assert!(row.attempts <= outcomes, "counted {outcomes} times: {row:?}");
            assert!(!wish.closed || row.state == "dead", "an operator closed it: {row:?}");
            assert!(row.asks <= i64::from(MAX_ASKS), "7: {row:?}");
            if row.state == "absent" {
                assert!(matches!(row.verdict.as_deref(), Some("absent" | "pruned")), "2: {row:?}");
            }
            if row.state == "deleted" {
                assert!(self.model.is_gone(&row.agent_id, &row.entry_id), "2: {row:?}");
                assert!(matches!(row.verdict.as_deref(), Some("deleted" | "pruned")), "2: {row:?}");
            }
        }
        // Whatever is not there was pruned: it had been settled, and long ago.
        for key in missing {
            let old =
                self.settled_before.get(&key).is_some_and(|at| *at < self.pruned_at - RETENTION.as_millis() as i64);
            assert!(old, "1: {key:?} is lost");
            assert!(!self.open_before.contains(&key), "1: {key:?} was open, and is lost");
            self.wishes.remove(&key);
            self.figures.pruned += 1;
        }
        (self.open_before, self.settled_before) = (open, settled);
    }

    /// What the queue says of each answered request is what it was answered.
    async fn check_answers(&mut self) {
        let outcomes: Vec<(i64, i64, String, Option<i64>, String, String)> = self
            .query(
                "SELECT requests.id, deletion_id, correlation_id, status, entry_id, verdict FROM requests
                 JOIN outcomes ON outcomes.request_id = requests.id JOIN deletions ON deletions.id = deletion_id
                 WHERE answered_at IS NOT NULL",
            )
            .await;
        let mut seen = BTreeSet::new();
        for (request, row, id, status, entry, verdict) in outcomes {
            if self.checked.contains(&request) {
                continue;
            }
            seen.insert(request);
            *self.counted.entry(row).or_default() += i64::from(verdict != "release");
            let world = self.model.world();
            let told = (status == Some(200)).then(|| world.told.get(&id.parse().unwrap())).flatten();
            let deleted = told.is_some_and(|told| told.deleted.contains(&entry) && !told.failed.contains(&entry));
            let absent = world.absent.contains(&id.parse().unwrap());
            assert!(verdict != "absent" || absent, "2: {entry} in request {request}: {verdict}, told {status:?}");
            assert_eq!(verdict == "deleted", deleted, "2: {entry} in request {request}: {verdict}, told {told:?}");
        }
        self.checked.extend(seen);
    }

    /// A malformed ID about which nobody can be asked alone: if it is all that is left, no answer tells it from an API that
    /// rejects everything.
    fn is_malformed_for_ever(&self, row: &Row) -> bool {
        let cannot_ask = !self.settings.policy.ask_singly || row.asks >= i64::from(MAX_ASKS);
        cannot_ask && row.entry_id.starts_with(NOT_A_NUMBER) && row.last_cause.as_deref() == Some("rejected")
    }

    async fn nothing_can_tell(&mut self) -> bool {
        let rows = self.rows().await;
        rows.iter().filter(|row| row.state == "pending").all(|row| self.is_malformed_for_ever(row))
    }

    /// From here on all goes well: every row must reach its end.
    async fn end(&mut self) {
        self.execute("DELETE FROM holds WHERE cause = 'operator'").await;
        let mut idle = 0;
        for round in 0..20_000 {
            let turn = self.worker().turn().await.unwrap();
            self.figures.turns += 1;
            self.arrived(turn).await;
            self.check_calls().await;
            let mut open = self.model.world().open.len();
            if open == 0 && turn.sent == 0 {
                if self.query::<(i64,)>("SELECT count(*) FROM deletions WHERE state = 'pending'").await[0].0 == 0 {
                    break;
                }
                if round % 64 == 0 && self.nothing_can_tell().await {
                    break;
                }
                // A worker that waits for nothing comes round all the same, to see whether anybody wrote.
                let wait = turn.wait.unwrap_or(self.settings.poll_interval);
                // A daemon that asks for a turn earlier gets it; a late one must do as well, and saves turns here.
                idle += 1;
                let least = if idle > 10 { Duration::from_secs(5) } else { self.settings.poll_interval };
                self.clock.advance(wait.max(least));
            } else {
                idle = 0;
            }
            while open > 0 {
                self.answer(0, Mood::Ok).await;
                open -= 1;
            }
        }
        self.check().await;
        let rows = self.rows().await;
        let can_end = |row: &&Row| row.state == "pending" && !self.is_malformed_for_ever(row);
        let open: Vec<&Row> = rows.iter().filter(can_end).collect();
        assert!(open.is_empty(), "7: {} rows reach no end, {:?} among them", open.len(), open[0]);
        assert_eq!(rows.len(), self.wishes.len(), "rows in, and rows accounted for");
        assert_eq!(self.query::<(String,)>("PRAGMA integrity_check").await, [("ok".to_owned(),)]);
        self.figures.deleted = rows.iter().filter(|row| row.state == "deleted").count() as u64;
        self.figures.absent = rows.iter().filter(|row| row.state == "absent").count() as u64;
        self.figures.dead = rows.iter().filter(|row| row.state == "dead").count() as u64;
        self.figures.calls = self.model.world().calls as u64;
    }
}

/// Runs a seed to its end; returns what was done, and all that the queue says after it.
fn simulate(seed: u64) -> (Figures, Vec<(String,)>) {
    let _reproduce = Reproduce(seed, "simulator::whatever");
    on_a_runtime(async {
        let mut simulation = Simulation::new(seed).await;
        for _ in 0..STEPS {
            simulation.step().await;
        }
        simulation.end().await;
        let dump = "SELECT json_array(id, agent_id, entry_id, state, attempts, due_at, batch_max, asks, maybe_done, request_id,
                        last_cause, created_at, settled_at) FROM deletions
                    UNION ALL SELECT json_array(id, correlation_id, deletion_ids, claimed_at, answered_at, fault) FROM requests
                    UNION ALL SELECT json_array(request_id, deletion_id, verdict, cause) FROM outcomes";
        (simulation.figures, simulation.query(dump).await)
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Says how to come to a failure again.
struct Reproduce(u64, &'static str);

impl Drop for Reproduce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed, test) = self;
            // Not by a macro: a thread's output is not captured, and this is wanted in any case.
            let _ = writeln!(std::io::stderr(), "to reproduce: SIMULATOR_SEED={seed} cargo test {test}");
        }
    }
}

/// Runs `one` for the seed that is asked for, or for as many as are asked for, or for `seeds`.
fn for_seeds<T: Send>(seeds: u64, one: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let only = number("SIMULATOR_SEED");
    let first = only.or_else(|| number("SIMULATOR_FIRST")).unwrap_or(0);
    let count = if only.is_some() { 1 } else { number("SIMULATOR_SEEDS").unwrap_or(seeds) };
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let run = || {
            let seeds =
                std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::SeqCst)).filter(|seed| *seed < first + count));
            seeds.map(&one).collect::<Vec<T>>()
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let done = running.into_iter().flat_map(|done| done.join().unwrap_or_else(|cause| panic::resume_unwind(cause)));
        done.collect()
    })
}

fn on_a_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
#[expect(clippy::print_stdout, reason = "figures, for whoever asks with --nocapture")]
fn whatever_happens_every_row_is_accounted_for() {
    let mut total = Figures::default();
    for_seeds(SEEDS, |seed| simulate(seed).0).into_iter().for_each(|figures| total.add(figures));
    println!("{total:#?}");
    let count = total.seeds;
    if count < SEEDS {
        return;
    }
    assert!(total.absent > count, "{total:?}");
    assert!(total.faults > 5 * count && total.crashes > count / 2 && total.locks > count / 2, "{total:?}");
}

#[test]
fn a_seed_is_enough_to_reproduce_a_run() {
    for seed in [3, 17] {
        assert!(simulate(seed) == simulate(seed), "seed {seed} went two ways");
    }
}

/// How many worlds of laws `cargo test` tries.
const WORLDS: u64 = 88;

/// Draws a world of laws and runs it to its end.
fn live(seed: u64) -> (Kind, live::Figures) {
    let _reproduce = Reproduce(seed, "simulator::under_laws");
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = World::draw(seed, &mut rng);
    let kind = world.kind;
    on_a_runtime(async {
        let (mut figures, mut live) = Live::new(world, rng).await.run().await;
        live.check(&mut figures).await;
        (kind, figures)
    })
}

#[test]
#[expect(clippy::print_stdout, reason = "figures, for whoever asks with --nocapture")]
fn under_laws_every_row_ends_in_time_and_no_good_one_is_condemned() {
    let all = for_seeds(WORLDS, live);
    for kind in KINDS {
        let of_kind = all.iter().filter(|(of, _)| *of == kind).map(|(_, figures)| figures);
        let most = |what: fn(&live::Figures) -> f64| of_kind.clone().map(what).fold(0.0, f64::max);
        let (good, all) = (most(|figures| figures.good), most(|figures| figures.all));
        let (requests, turns) = (most(|figures| figures.requests as f64), most(|figures| figures.turns as f64));
        let count = of_kind.clone().count();
        println!(
            "{kind:?}: {count} worlds; of the bounds {good:.2} and {all:.2}; most requests {requests}, turns {turns}"
        );
    }
}
