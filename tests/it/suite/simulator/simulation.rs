//! The real worker, and around it what a seed draws: producers, operators, answers, the clock, crashes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use audio_cache_sweeper::{
    model::{
        backoff::Backoff,
        clock::{Clock, Timestamp},
        deletion::State,
        judge::Policy,
        outcome::{Cause, Scope},
    },
    pace::{Pace, RateLimit},
    queue::{QueueError as _, Remedy},
    worker::{LoggedRequests, Settings, Turn, Worker},
};

use super::{
    Figures, SETUP,
    api::{Mood, NOT_A_NUMBER},
    model::Model,
};
use crate::suite::{
    bed::START,
    engine::{Engine, Hold, Row, Wish},
};

const AGENTS: [&str; 4] = ["a", "b", "c", "d"];
const HOLD_BASE: Duration = Duration::from_secs(5);
pub const RETENTION: Duration = Duration::from_secs(20_000);

/// Agent and entry.
pub type Key = (String, String);

pub fn key(row: &Row) -> Key {
    (row.agent.clone(), row.entry.clone())
}

/// A hold's scope, cause, end and repeats. A hold that was placed again has another key.
pub type HoldKey = (Scope, Cause, Option<Timestamp>, u32);

/// One in `one_in` pending rows of an agent.
fn is_pending_of(agent: &str, one_in: i64) -> impl Fn(&Row) -> bool {
    move |row| row.agent == agent && row.id % one_in == 0 && row.is(State::Pending)
}

/// What the simulation knows of a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// How many counted outcomes it had when its attempts were set to 0.
    pub counted_before: u32,
    /// An operator has made it dead, and it must stay dead.
    pub closed: bool,
}

pub struct Simulation<E: Engine> {
    // Above the engine, because fields are dropped in order: the worker must let go of the queue first.
    worker: Option<Worker<E::Queue, Model<E::Witness>>>,
    pub model: Model<E::Witness>,
    pub clock: Clock,
    pub engine: E,
    pub settings: Settings,
    rate: RateLimit,
    pub rng: fastrand::Rng,
    pub known: BTreeMap<Key, Known>,
    /// The rows that were open at the last check, and when the others were settled.
    pub open_before: BTreeSet<Key>,
    pub settled_before: HashMap<Key, Timestamp>,
    /// The latest time at which rows may have been pruned.
    pub pruned_at: Timestamp,
    /// Requests whose outcomes have been checked.
    pub checked: BTreeSet<i64>,
    /// How many counted outcomes each row has had.
    pub counted: HashMap<i64, u32>,
    /// The holds that there are, each with the number of the last call before it was first seen.
    pub holds: HashMap<HoldKey, usize>,
    /// The percentage of calls that go well.
    health: u8,
    pub figures: Figures,
}

impl<E: Engine> Simulation<E> {
    pub async fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let engine = E::create(SETUP).await;
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
            evidence_retention: Duration::ZERO,
            grace: Duration::ZERO,
            request_timeout: Duration::ZERO,
            logged_requests: LoggedRequests::All,
        };
        let clock = Clock::manual(START);
        let model = Model::new(engine.witness().await, clock.clone(), rate, HOLD_BASE);
        let mut simulation = Self {
            worker: None,
            model,
            clock,
            engine,
            settings,
            rate,
            rng,
            known: BTreeMap::new(),
            open_before: BTreeSet::new(),
            settled_before: HashMap::new(),
            pruned_at: Timestamp::ZERO,
            checked: BTreeSet::new(),
            counted: HashMap::new(),
            holds: HashMap::new(),
            health: 60,
            figures: Figures { seeds: 1, ..Figures::default() },
        };
        simulation.start().await;
        simulation
    }

    async fn start(&mut self) {
        let growth = Backoff::new(HOLD_BASE, Duration::from_secs(60)).unwrap();
        let pace = Pace::new(self.rate, growth);
        let pace = if self.rng.bool() { pace.adaptive(self.settings.concurrency, self.clock.elapsed()) } else { pace };
        let queue = self.engine.open().await;
        let rng = self.rng.fork();
        let worker =
            Worker::new(queue, self.model.clone(), pace, self.settings, self.clock.clone(), rng).await.unwrap();
        self.worker = Some(worker);
    }

    pub fn worker(&mut self) -> &mut Worker<E::Queue, Model<E::Witness>> {
        self.worker.as_mut().unwrap()
    }

    pub fn counted(&self, row: i64) -> u32 {
        self.counted.get(&row).copied().unwrap_or(0)
    }

    /// One thing happens.
    pub async fn step(&mut self) {
        match self.rng.u8(..100) {
            0..=11 => self.produce().await,
            12..=39 => {
                self.turn().await;
            }
            40..=43 => self.work_for_a_while().await,
            44..=69 => self.answer_some().await,
            70..=82 => self.pass_time(),
            83..=88 => self.operate().await,
            89..=91 => self.turn_while_shut_out().await,
            92..=95 => self.crash().await,
            96..=97 => self.health = [0, 30, 60, 95][self.rng.usize(..4)],
            _ => {
                // After a jump of a day, there are rows to prune.
                self.pruned_at = self.pruned_at.max(self.clock.now());
                self.worker().do_chores().await.unwrap();
            }
        }
    }

    async fn produce(&mut self) {
        let agent = AGENTS[self.rng.usize(..AGENTS.len())];
        let now = self.clock.now();
        let before: HashMap<Key, Row> = self.engine.rows().await.into_iter().map(|row| (key(&row), row)).collect();
        let mut wishes = Vec::new();
        for _ in 0..self.rng.usize(1..30) {
            let bad = if self.rng.u8(..50) == 0 { NOT_A_NUMBER } else { "" };
            let entry = format!("{bad}{}", self.rng.u32(1..40));
            let priority = [0, 0, 0, 5, -3][self.rng.usize(..5)];
            let later = now.plus(Duration::from_millis(self.rng.u64(..600_000)));
            let due_at = [Timestamp::ZERO, Timestamp::ZERO, Timestamp::ZERO, later][self.rng.usize(..4)];
            let created_at = Some(now.minus(Duration::from_millis(self.rng.u64(..3_000))));
            wishes.push(Wish { agent: agent.to_owned(), entry: entry.clone(), priority, due_at, created_at });
            let key = (agent.to_owned(), entry);
            let known = match before.get(&key) {
                Some(row) if row.is(State::Pending) => continue,
                Some(row) => Known { counted_before: self.counted(row.id), ..Known::default() },
                None => Known::default(),
            };
            self.figures.rows_in += 1;
            // A second wish for the same entry in this transaction finds the row open.
            self.known.insert(key, known);
        }
        self.engine.enqueue(&wishes).await;
    }

    async fn turn(&mut self) -> Option<Duration> {
        let turn = self.worker().turn().await.unwrap();
        self.arrived(turn).await;
        self.figures.turns += 1;
        self.check().await;
        turn.wait
    }

    /// Takes turns, each at the time that the worker asks for.
    async fn work_for_a_while(&mut self) {
        for _ in 0..10 {
            let wait = self.turn().await;
            self.answer_some().await;
            self.clock.advance(wait.unwrap_or_default().clamp(Duration::from_millis(1), Duration::from_secs(120)));
        }
    }

    /// Waits until all calls that were sent have arrived.
    pub async fn arrived(&mut self, turn: Turn) {
        assert!(turn.sent <= turn.in_flight, "{turn:?}");
        let calls = {
            let world = self.model.world();
            world.calls + turn.in_flight.saturating_sub(world.open.len())
        };
        self.model.arrived(calls as u64).await;
    }

    /// Another process writes during a whole turn. That turn must do nothing, and lose nothing.
    async fn turn_while_shut_out(&mut self) {
        let before = self.model.world().calls;
        self.engine.shut_out().await;
        let turned = self.worker().turn().await;
        self.engine.let_in().await;
        match turned {
            Ok(Turn { settled, sent, .. }) => assert_eq!((settled, sent), (0, 0), "written through a lock"),
            Err(error) => assert_eq!(error.remedy(), Remedy::Wait, "{error}"),
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

    pub async fn answer(&mut self, at: usize, mood: Mood) {
        if let Mood::Hang(_) = mood {
            self.clock.advance(Duration::from_secs(30));
        }
        self.model.answer(at, mood, &mut self.rng);
        // Two answers at once would come back in either order.
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
        let now = self.clock.now();
        match self.rng.u8(..8) {
            0 => {
                let hold = Hold::on(scope);
                let hold = match self.rng.u8(..4) {
                    0 => hold,
                    1 => hold.until(Timestamp::LEAST_DUE),
                    2 => hold.until(now.plus(Duration::from_secs(30))),
                    _ => hold.until(now.plus(Duration::from_secs(100_000_000))),
                };
                self.engine.place(&[hold]).await;
            }
            1 | 2 => self.engine.lift_where(|hold| hold.cause == Cause::Operator).await,
            3 => self.engine.lift_where(|hold| hold.scope.as_str() == scope).await,
            4 => self.revive().await,
            5 => {
                // Removed, in flight or not.
                let gone = self.engine.rows_where(is_pending_of(agent, 3)).await;
                self.engine.remove(&gone).await;
                self.figures.taken_out += gone.len() as u64;
                self.known.retain(|known, _| gone.iter().all(|row| key(row) != *known));
            }
            6 => {
                let mut closed = self.engine.rows_where(is_pending_of(agent, 5)).await;
                for row in &mut closed {
                    self.known.get_mut(&key(row)).unwrap().closed = true;
                    row.give_up(now);
                }
                self.engine.edit(&closed).await;
            }
            _ => self.engine.edit_where(is_pending_of(agent, 1), |row| row.priority = 9).await,
        }
    }

    /// An operator reopens the dead rows.
    async fn revive(&mut self) {
        let mut dead = self.engine.rows_where(|row| row.is(State::Dead)).await;
        for row in &mut dead {
            self.known.insert(key(row), Known { counted_before: self.counted(row.id), closed: false });
            (row.state, row.settled_at, row.attempts, row.due_at) = (State::Pending, None, 0, Timestamp::ZERO);
        }
        self.engine.edit(&dead).await;
    }

    /// The daemon dies, and another one starts.
    async fn crash(&mut self) {
        let orphans: BTreeSet<i64> = self.engine.unanswered().await.into_iter().flat_map(|open| open.rows).collect();
        let orphans = self.engine.rows_where(|row| row.is(State::Pending) && orphans.contains(&row.id)).await;
        self.worker = None;
        self.model.crash(|| self.rng.bool());
        self.start().await;
        self.figures.crashes += 1;
        self.check().await;
        let rows: HashMap<i64, Row> = self.engine.rows().await.into_iter().map(|row| (row.id, row)).collect();
        for orphan in orphans {
            let row = &rows[&orphan.id];
            let lost = row.maybe_done && row.last_cause == Some(Cause::Lost);
            // It died of that, and a wish that the daemon has taken in since reopened it.
            let reopened = orphan.attempts + 1 >= self.settings.policy.max_attempts && row.request.is_none();
            let is_accounted_for = lost && (row.is(State::Pending) || row.is(State::Dead));
            assert!(is_accounted_for || reopened, "an orphan's row: {row:?}");
        }
    }
}
