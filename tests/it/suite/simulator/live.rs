//! Runs a world of laws in virtual time, and asserts that its rows end in time.
//!
//! The clock jumps to whatever comes next: an answer, an event, or the turn that the worker asks for. So hours cost nothing, and a
//! worker that does not ask for a turn in time is found out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use audio_cache_sweeper::{
    model::{
        clock::{Clock, Timestamp},
        deletion::State,
        outcome::Fault,
    },
    pace::Pace,
    worker::Worker,
};

use super::{
    SETUP,
    api::Mood,
    bounds::Bounds,
    laws::Class,
    model::Model,
    worlds::{Event, Kind, World},
};
use crate::suite::{
    bed::START,
    engine::{Engine, Row, Wish},
};

/// After this time, a call is lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// After some idle turns, the worker gets its next turn this late, even if it asks for an earlier one.
pub const LATE: Duration = Duration::from_secs(1);

/// More turns than any world needs.
const MOST_TURNS: u64 = 100_000;

/// The figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub requests: usize,
    pub turns: u64,
    /// When the last good row ended, and the last row of all, as shares of the bounds.
    pub good: f64,
    pub all: f64,
    /// How many rows ended in each state.
    pub states: BTreeMap<&'static str, usize>,
    pub elapsed: Duration,
}

pub struct Live<E: Engine> {
    // Above the engine, because fields are dropped in order: the worker must let go of the queue first.
    worker: Option<Worker<E::Queue, Model<E::Witness>>>,
    pub model: Model<E::Witness>,
    clock: Clock,
    engine: E,
    pub world: World,
    events: VecDeque<(Duration, Event)>,
    rng: fastrand::Rng,
    /// When and how each open call is answered, by its number.
    answers: BTreeMap<usize, (Duration, Mood)>,
    pub bounds: Bounds,
    /// When each row was inserted, and when it was first seen to have ended.
    came: BTreeMap<(String, String), Duration>,
    ended: BTreeMap<(String, String), Duration>,
    open: BTreeSet<(String, String)>,
    /// When [`Self::is_over`] was last asked.
    looked: Duration,
    figures: Figures,
}

impl<E: Engine> Live<E> {
    pub async fn new(mut world: World, mut rng: fastrand::Rng) -> Self {
        let engine = E::create(SETUP).await;
        let clock = Clock::manual(START);
        let model = Model::new(engine.witness().await, clock.clone(), world.rate, world.growth.base());
        for ((agent, entry), class) in &world.laws.classes {
            if *class == Class::Gone {
                model.lose(agent, entry);
            }
        }
        world.events.sort_by_key(|(at, _)| *at);
        let bounds = Bounds::of(&world);
        let events = world.events.iter().cloned().collect();
        let rng = rng.fork();
        let (answers, came, ended) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let figures = Figures::default();
        let mut live = Self {
            worker: None,
            model,
            clock,
            engine,
            world,
            events,
            rng,
            answers,
            bounds,
            came,
            ended,
            open: BTreeSet::new(),
            looked: Duration::ZERO,
            figures,
        };
        live.start().await;
        live
    }

    async fn start(&mut self) {
        let pace = Pace::new(self.world.rate, self.world.growth);
        let pace = match self.world.adaptive {
            true => pace.adaptive(self.world.settings.concurrency, self.clock.elapsed()),
            false => pace,
        };
        let queue = self.engine.open().await;
        let (settings, rng) = (self.world.settings, self.rng.fork());
        self.worker =
            Some(Worker::new(queue, self.model.clone(), pace, settings, self.clock.clone(), rng).await.unwrap());
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Insert(rows) => {
                let created_at = Some(self.clock.now());
                let wishes = rows.iter().map(|(agent, entry)| Wish { created_at, ..Wish::of(agent, entry) });
                self.engine.enqueue(&wishes.collect::<Vec<_>>()).await;
                let elapsed = self.clock.elapsed();
                self.open.extend(rows.iter().cloned());
                self.came.extend(rows.into_iter().map(|row| (row, elapsed)));
            }
            Event::SetClock(by) => self.clock.jump_to(Timestamp(self.clock.now().0 + by)),
            Event::Restart => {
                self.worker = None;
                self.answers.clear();
                self.model.crash(|| false);
                self.start().await;
                self.look().await;
            }
        }
    }

    /// Runs until all rows have ended that can.
    pub async fn run(mut self) -> (Figures, Self) {
        let (mut idle, mut settled) = (0_u32, true);
        loop {
            while self.events.front().is_some_and(|(at, _)| *at <= self.clock.elapsed()) {
                let (_, event) = self.events.pop_front().unwrap();
                self.happen(event).await;
            }
            let turn = self.worker.as_mut().unwrap().turn().await.unwrap();
            self.figures.turns += 1;
            let calls = {
                let world = self.model.world();
                world.calls + turn.in_flight.saturating_sub(world.open.len())
            };
            self.model.arrived(calls as u64).await;
            self.take_in_calls();
            settled |= turn.settled > 0;
            if std::mem::take(&mut settled) {
                self.look().await;
            }
            if self.clock.elapsed() >= self.looked + LATE || self.open.is_empty() {
                self.looked = self.clock.elapsed();
                if self.is_over() {
                    break;
                }
            }
            idle = if turn.sent + turn.settled > 0 { 0 } else { idle + 1 };
            let now = self.clock.elapsed();
            let least = Duration::from_millis(1_u64 << idle.min(10)).min(LATE);
            // A worker that waits for nothing still polls.
            let wanted = now + turn.wait.unwrap_or(LATE).max(least);
            let answer = self.answers.values().map(|(at, _)| *at).min();
            let event = self.events.front().map(|(at, _)| *at);
            let next = [Some(wanted), answer, event].into_iter().flatten().min().unwrap_or(wanted);
            assert!(self.figures.turns < MOST_TURNS, "12: {next:?}, and no end: {:?}", self.pending().await);
            self.clock.advance(next.saturating_sub(now) + Duration::from_micros(1));
            self.answer().await;
        }
        self.figures.requests = self.model.world().calls;
        self.figures.elapsed = self.clock.elapsed();
        for row in self.engine.rows().await {
            *self.figures.states.entry(row.state.as_str()).or_default() += 1;
        }
        (self.figures.clone(), self)
    }

    /// Decides when and how the new calls are answered.
    fn take_in_calls(&mut self) {
        let now = self.clock.elapsed();
        let model = self.model.clone();
        let world = model.world();
        assert!(world.wrong.is_empty(), "{:#?}", world.wrong);
        for call in &world.open {
            if self.answers.contains_key(&call.number) {
                continue;
            }
            let mood = self.world.laws.mood(call, now);
            // The clock has a resolution of a microsecond.
            let most = self.world.latency.as_millis() as u64;
            let latency = Duration::from_millis(self.rng.u64(most / 2..=most));
            let latency = if mood == Mood::Fault(Fault::Lost) { REQUEST_TIMEOUT } else { latency };
            self.answers.insert(call.number, (now + latency, mood));
        }
    }

    /// Answers the calls whose time has come, some of them swapped.
    async fn answer(&mut self) {
        let now = self.clock.elapsed();
        let (until, share) = self.world.laws.swaps;
        loop {
            let due =
                self.answers.iter().filter(|(_, (at, _))| *at <= now).min_by_key(|(number, (at, _))| (*at, **number));
            let Some((&number, &(_, mood))) = due else { return };
            self.answers.remove(&number);
            let places: BTreeMap<usize, usize> =
                self.model.world().open.iter().enumerate().map(|(at, call)| (call.number, at)).collect();
            let other = self.answers.keys().copied().next().filter(|_| now < until && self.rng.u8(..100) < share);
            if let Some(other) = other {
                // The older call's entries are not deleted, so believing the swapped answer would be wrong.
                self.answers.remove(&other);
                let mut moods = [mood, Mood::Fault(Fault::Status { status: 500, retry_after: None })];
                let (a, b) = (places[&number], places[&other]);
                if a > b {
                    moods.reverse();
                }
                self.model.answer_crosswise([a, b], moods, &mut self.rng);
                self.worker.as_mut().unwrap().wait_for_a_call().await;
            } else {
                self.model.answer(places[&number], mood, &mut self.rng);
            }
            self.worker.as_mut().unwrap().wait_for_a_call().await;
        }
    }

    /// Notes which rows have ended, and checks how.
    async fn look(&mut self) {
        let now = self.clock.elapsed();
        // Fewer requests than this are answered between two looks.
        let ended = self.engine.settled_by_the_newest(64).await;
        for row in ended {
            let key = (row.agent.clone(), row.entry.clone());
            if self.ended.contains_key(&key) {
                continue;
            }
            self.ended.insert(key.clone(), now);
            self.open.remove(&key);
            let class = self.world.laws.class(&key.0, &key.1);
            let is_gone = self.model.is_gone(&row.agent, &row.entry);
            let is_said_to_be = row.is(State::Deleted) || row.is(State::Absent);
            assert!(is_gone || !is_said_to_be, "2: {row:?} is there");
            if class == Class::Good && row.is(State::Dead) {
                self.bounds.condemned(&self.world, &row.agent, row.last_cause.unwrap(), now);
            }
            let waited = now.saturating_sub(self.came[&key]);
            self.bounds.waited(&self.world, &key, waited);
        }
        if matches!(self.world.kind, Kind::BadAgent | Kind::Crowd) {
            let holds = self.engine.holds_over("*").await;
            assert!(holds.is_empty(), "11: one agent's faults, or what is forbidden, hold everything: {holds:?}");
        }
    }

    async fn pending(&mut self) -> Vec<Row> {
        self.engine.rows_where(|row| row.is(State::Pending)).await.into_iter().take(3).collect()
    }

    /// Whether all rows have ended that must. Panics if one takes too long.
    fn is_over(&self) -> bool {
        let now = self.clock.elapsed();
        if !self.events.is_empty() || now < self.bounds.well {
            return self.events.is_empty() && self.open.is_empty();
        }
        let after = now - self.bounds.well;
        let good: Vec<_> = self.open.iter().filter(|key| self.bounds.is_good(&self.world, key)).collect();
        assert!(
            after <= self.bounds.good || good.is_empty(),
            "12: {} good rows are open {after:?} after all was well, {:?} allowed: {:?}",
            good.len(),
            self.bounds.good,
            good.iter().take(3).collect::<Vec<_>>()
        );
        let must: Vec<_> = self.open.iter().filter(|key| !self.bounds.may_stay(&self.world, key)).collect();
        let (all, count) = (self.bounds.all, must.len());
        if must.is_empty() {
            return true;
        }
        assert!(
            after <= all + all / 100,
            "12: {count} rows are open {after:?} after all was well, {all:?} allowed: {:?}",
            &must[..count.min(3)]
        );
        false
    }

    /// Checks all rows and requests at the end of a run.
    pub async fn check(&mut self, figures: &mut Figures) {
        let well = self.bounds.well;
        for row in self.engine.rows().await {
            let key = (row.agent.clone(), row.entry.clone());
            self.bounds.check(&self.world, &row);
            let Some(ended) = self.ended.get(&key) else { continue };
            let share = |bound: Duration| ended.saturating_sub(well).as_secs_f64() / bound.as_secs_f64().max(1e-9);
            if self.world.laws.class(&key.0, &key.1) == Class::Good {
                figures.good = figures.good.max(share(self.bounds.good));
            }
            figures.all = figures.all.max(share(self.bounds.all));
        }
        let log = self.model.world().log.clone();
        self.bounds.check_requests(&self.world, &log);
    }
}
