//! The pace against gateways in virtual time: the real pace and the real judge, and limits as an API may have them.

#![expect(clippy::unwrap_used, reason = "a simulation that cannot go on should stop where it is")]

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
    time::Duration,
};

use audio_cache_sweeper::{
    model::{
        backoff::Backoff,
        clock::Timestamp,
        deletion::{AgentId, Batch, Deletion, DeletionId, EntryId, Lane, RequestId},
        judge::{Heard, Policy, Sent, Standing, judge},
        outcome::{Answer, Fault, RetryAfter},
    },
    pace::{self, Admission, Pace, RateLimit, Tuning},
};

/// How the API counts.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// So many a second, and a second's worth at once.
    Bucket,
    /// So many in each so many seconds, all at once if need be; they begin at any time.
    Window { length: f64, offset: f64 },
    /// So many at the same time, however many a second.
    Concurrent { most: u32 },
    /// As nginx's `limit_req` counts: evenly spaced but for a burst, which is delayed or not.
    Spaced { burst: u32, is_delayed: bool },
    /// As HAProxy's `http_req_rate` counts: so many in the last so many seconds, refused ones as well.
    Sliding { length: f64 },
}

/// What a throttled answer says about when to come back.
#[derive(Clone, Copy, Debug)]
pub enum Told {
    Nothing,
    /// When it is right.
    Exactly,
    /// So many seconds, whatever is right.
    Always(u64),
}

/// What is between us and the API, and how fast we are.
#[derive(Clone, Copy, Debug)]
pub struct Terrain {
    /// What an answer takes in seconds, the least and how much more it may be.
    pub latency: (f64, f64),
    /// So many seconds more, for one in so many answers.
    pub slow: (f64, u8),
    /// What a commit takes in seconds, the least and how much more it may be; and one in so many that takes ten times as long.
    pub commit: (f64, f64, u8),
    /// By how many seconds a timer or a network may delay a request at the most.
    pub jitter: f64,
    /// What a throttled answer takes in seconds, if that is less than others take.
    pub refusal: Option<f64>,
}

/// As sibling routes of the API were recorded, without a delay of our own.
pub const RECORDED: Terrain =
    Terrain { latency: (0.05, 0.03), slow: (0.25, 20), commit: (0.0, 0.0, 0), jitter: 0.0, refusal: None };
/// As measured between processes of one machine.
pub const LOOPBACK: Terrain = Terrain {
    latency: (0.06, 0.003),
    slow: (0.0, 0),
    commit: (0.001, 0.003, 30),
    jitter: 0.0015,
    refusal: Some(0.001),
};

impl Terrain {
    /// What an answer takes on average, in seconds.
    pub fn mean_latency(&self) -> f64 {
        let slow = if self.slow.1 == 0 { 0.0 } else { self.slow.0 / f64::from(self.slow.1) };
        self.latency.0 + self.latency.1 / 2.0 + slow
    }

    fn latency(&self, rng: &mut fastrand::Rng) -> f64 {
        let slow = if self.slow.1 > 0 && rng.u8(..self.slow.1) == 0 { self.slow.0 } else { 0.0 };
        self.latency.0 + self.latency.1 * rng.f64() + slow
    }

    fn commit(&self, rng: &mut fastrand::Rng) -> Duration {
        let (least, more, odds) = self.commit;
        let factor = if odds > 0 && rng.u8(..odds) == 0 { 10.0 } else { 1.0 };
        Duration::from_secs_f64((least + more * rng.f64()) * factor)
    }
}

/// A limit with its state.
#[derive(Clone, Debug)]
pub struct Limit {
    kind: Kind,
    /// Requests per second.
    rate: f64,
    left: f64,
    at: f64,
    in_flight: u32,
    counts: (f64, f64),
}

impl Limit {
    pub fn new(kind: Kind, rate: f64) -> Self {
        Self { kind, rate, left: rate, at: f64::NEG_INFINITY, in_flight: 0, counts: (0.0, 0.0) }
    }

    fn window(now: f64, length: f64, offset: f64) -> f64 {
        ((now + offset) / length).floor()
    }

    fn change(&mut self, factor: f64) {
        self.rate *= factor;
        if let Kind::Concurrent { most } = &mut self.kind {
            *most = (f64::from(*most) * factor) as u32;
        }
    }

    /// Decides on a request that arrives: for how many seconds it is delayed, or that it is refused. Limits that count when they
    /// answer decide later.
    fn arrives(&mut self, now: f64) -> Option<f64> {
        match self.kind {
            Kind::Bucket | Kind::Window { .. } => Some(0.0),
            Kind::Concurrent { most } => {
                let takes_up = self.in_flight < most;
                self.in_flight += u32::from(takes_up);
                takes_up.then_some(0.0)
            }
            Kind::Spaced { burst, is_delayed } => {
                let now = (now * 1_000.0).floor() / 1_000.0;
                let excess =
                    if self.at.is_finite() { (self.left - self.rate * (now - self.at) + 1.0).max(0.0) } else { 0.0 };
                if excess > f64::from(burst) {
                    return None;
                }
                (self.left, self.at) = (excess, now);
                Some(if is_delayed { excess / self.rate } else { 0.0 })
            }
            Kind::Sliding { length } => {
                if self.at.is_infinite() {
                    self.at = now;
                } else if now - self.at >= length {
                    self.counts = (self.counts.1, 0.0);
                    self.at += length;
                    if now - self.at >= length {
                        (self.counts, self.at) = ((0.0, 0.0), now);
                    }
                }
                self.counts.1 += 1.0;
                let counted = self.counts.1 + self.counts.0 * (1.0 - (now - self.at) / length);
                (counted.floor() <= (self.rate * length).round()).then_some(0.0)
            }
        }
    }

    /// Whether a request that was taken up is done.
    fn allows(&mut self, now: f64) -> bool {
        match self.kind {
            Kind::Concurrent { .. } => {
                self.in_flight -= 1;
                return true;
            }
            Kind::Spaced { .. } | Kind::Sliding { .. } => return true,
            Kind::Bucket => {
                let earned = if self.at.is_finite() { (now - self.at) * self.rate } else { self.rate };
                self.left = (self.left + earned).min(self.rate.max(1.0));
                self.at = now;
            }
            Kind::Window { length, offset } => {
                let window = Self::window(now, length, offset);
                if window > self.at {
                    self.left = (self.rate * length).round();
                    self.at = window;
                }
            }
        }
        let allowed = self.left >= 1.0;
        self.left -= f64::from(u8::from(allowed));
        allowed
    }

    /// How many requests it allows from `from` to `to`, when so many were answered since the last window began.
    pub fn allowance(&self, answered: impl Fn(f64, f64) -> f64, from: f64, to: f64) -> f64 {
        match self.kind {
            Kind::Window { length, offset } => {
                let begun = Self::window(from, length, offset) * length - offset;
                self.rate * length - answered(begun, from) + self.rate * (to - begun - length)
            }
            Kind::Bucket | Kind::Concurrent { .. } | Kind::Spaced { .. } | Kind::Sliding { .. } => {
                self.rate * (to - from)
            }
        }
    }

    fn retry_after(&self, now: f64) -> u64 {
        let wait = match self.kind {
            Kind::Bucket => (1.0 - self.left) / self.rate,
            Kind::Window { length, offset } => length - (now + offset) % length,
            Kind::Concurrent { .. } | Kind::Spaced { .. } | Kind::Sliding { .. } => 1.0,
        };
        wait.ceil().max(1.0) as u64
    }
}

/// A daemon with endless work, and what it meets.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub kind: Kind,
    /// Requests per second.
    pub rate: f64,
    pub told: Told,
    pub terrain: Terrain,
    /// Requests per second.
    pub ceiling: f64,
    pub concurrency: usize,
    pub length: Duration,
    /// By which factor the limit changes, and when.
    pub change: Option<(Duration, f64)>,
    /// How long before its departure a request may be claimed.
    pub lead: Duration,
    pub tuning: Tuning,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// When requests were delivered, in seconds.
    pub delivered: Vec<f64>,
    /// When requests were throttled, in seconds.
    pub throttled: Vec<f64>,
    /// When the rate came within a tenth of the limit, in seconds.
    pub found: Option<f64>,
    /// The changes, and when they were, in seconds.
    pub changes: Vec<(f64, pace::Changes)>,
}

impl Run {
    pub fn delivered(&self, from: f64, to: f64) -> f64 {
        between(&self.delivered, from, to)
    }

    pub fn throttled(&self, from: f64, to: f64) -> f64 {
        between(&self.throttled, from, to)
    }

    /// The share of throttled answers.
    pub fn share(&self, from: f64, to: f64) -> f64 {
        let throttled = self.throttled(from, to);
        throttled / (throttled + self.delivered(from, to)).max(1.0)
    }
}

fn between(times: &[f64], from: f64, to: f64) -> f64 {
    (times.partition_point(|at| *at < to) - times.partition_point(|at| *at < from)) as f64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    Replies { is_taken_up: bool },
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    departure: pace::Departure,
    in_flight: usize,
}

struct Simulation {
    scene: Scene,
    rng: fastrand::Rng,
    pace: Pace,
    limit: Limit,
    now: Duration,
    flights: Vec<Flight>,
    /// How many requests left and are not judged.
    unjudged: usize,
    events: BinaryHeap<Reverse<(Duration, usize, Event)>>,
    /// Replies that are not judged.
    inbox: VecDeque<(usize, bool)>,
    /// Until when a commit goes on.
    busy: Duration,
    run: Run,
    agent: AgentId,
    batch: Batch,
    policy: Policy,
}

const EPOCH: Timestamp = Timestamp(4_000_000_000_000);

impl Simulation {
    fn new(scene: Scene, seed: u64) -> Self {
        let growth = Backoff::new(Duration::from_secs(1), Duration::from_secs(600)).unwrap();
        let policy = Policy {
            max_attempts: 8,
            retry: growth,
            min_retry_after: growth.base(),
            max_retry_after: Duration::from_secs(3_600),
            ask_singly: true,
        };
        let ceiling = RateLimit { requests_per_second: scene.ceiling, burst: 5.try_into().unwrap() };
        let mut pace = Pace::new(ceiling, growth).tuned(scene.concurrency, scene.tuning, Duration::ZERO);
        pace.permits.lead_by(scene.lead);
        let agent = AgentId::parse("a").unwrap();
        let row = Deletion::new(DeletionId(1), EntryId::parse("1").unwrap());
        let lane = Lane { priority: 0, agent: agent.clone(), batch_max: 20 };
        let batch = Batch::new(lane, vec![row]).unwrap();
        Self {
            scene,
            rng: fastrand::Rng::with_seed(seed),
            pace,
            limit: Limit::new(scene.kind, scene.rate),
            now: Duration::ZERO,
            flights: Vec::new(),
            unjudged: 0,
            events: BinaryHeap::new(),
            inbox: VecDeque::new(),
            busy: Duration::ZERO,
            run: Run::default(),
            agent,
            batch,
            policy,
        }
    }

    fn wall(&self) -> Timestamp {
        EPOCH.plus(self.now)
    }

    fn newest(&self) -> RequestId {
        RequestId(self.flights.len() as i64)
    }

    /// Sends what may go. Returns when to look again if nothing comes back.
    fn send(&mut self) -> Duration {
        let concurrency = self.pace.concurrency(self.scene.concurrency);
        let (mut next, mut taken) = (Duration::MAX, 0);
        let mut probes = false;
        while self.unjudged + taken < concurrency && !probes {
            match self.pace.holds.admit(&self.agent, self.wall()) {
                Admission::Free => {}
                // A probe goes alone.
                Admission::Probe if taken == 0 => probes = true,
                Admission::Held(Some(until)) => {
                    next = self.now + until.since(self.wall()).max(Duration::from_millis(1));
                    break;
                }
                Admission::Probe | Admission::Probing | Admission::Held(None) => break,
            }
            if !self.pace.take(self.now) {
                next = self.pace.next().max(self.now + Duration::from_micros(1));
                break;
            }
            taken += 1;
        }
        if taken > 0 {
            let commit = self.scene.terrain.commit(&mut self.rng);
            self.pace.permits.claimed_in(commit);
            self.busy = self.now + commit;
            for departure in self.pace.leave(self.busy) {
                self.flights.push(Flight { departure, in_flight: 0 });
                let request = self.newest();
                let wall = self.wall();
                self.pace.holds.sent(request, &self.agent, wall);
                let late = Duration::from_secs_f64(self.scene.terrain.jitter * self.rng.f64());
                self.events.push(Reverse((departure.at + late, self.flights.len() - 1, Event::Arrives)));
            }
            self.unjudged += taken;
            return self.busy;
        }
        next.max(self.busy)
    }

    fn happens(&mut self, flight: usize, event: Event, out: &mut usize) {
        let at = self.now.as_secs_f64();
        match event {
            Event::Arrives => {
                *out += 1;
                self.flights[flight].in_flight = *out;
                let taken_up = self.limit.arrives(at);
                let latency = self.scene.terrain.latency(&mut self.rng);
                let takes = match taken_up {
                    Some(delay) => latency + delay,
                    None => self.scene.terrain.refusal.unwrap_or(latency),
                };
                let replies = Event::Replies { is_taken_up: taken_up.is_some() };
                self.events.push(Reverse((self.now + Duration::from_secs_f64(takes), flight, replies)));
            }
            Event::Replies { is_taken_up } => {
                *out -= 1;
                let is_delivered = is_taken_up && self.limit.allows(at);
                if is_delivered {
                    self.run.delivered.push(at)
                } else {
                    self.run.throttled.push(at)
                }
                self.inbox.push_back((flight, is_delivered));
            }
        }
    }

    fn judge(&mut self) {
        while let Some((flight, is_delivered)) = self.inbox.pop_front() {
            self.unjudged -= 1;
            let at = self.now.as_secs_f64();
            let result = if is_delivered {
                Ok(Answer { deleted: vec!["1".to_owned()], failed: Vec::new() })
            } else {
                let retry_after = match self.scene.told {
                    Told::Nothing => None,
                    Told::Exactly => Some(RetryAfter::Seconds(self.limit.retry_after(at))),
                    Told::Always(seconds) => Some(RetryAfter::Seconds(seconds)),
                };
                Err(Fault::Status { status: 429, retry_after })
            };
            let (request, newest, wall) = (RequestId(flight as i64 + 1), self.newest(), self.wall());
            let sent = Sent { request, batch: &self.batch, correlation_id: "" };
            let heard = Heard { result: &result, envelope: None };
            let judgement = judge(sent, heard, &Standing::default(), &self.policy, wall, &mut self.rng);
            let Flight { departure, in_flight } = self.flights[flight];
            let heard = pace::Heard { request, newest, departure, in_flight, is_throttled: !is_delivered };
            let changes = self.pace.heard(heard, self.now);
            if changes != pace::Changes::default() {
                self.run.changes.push((at, changes));
            }
            let outcome = pace::Outcome {
                request,
                agent: self.agent.clone(),
                hold: judgement.hold,
                reached: None,
                has_settled: judgement.has_settled,
                asks_first: judgement.asks_first,
                newest,
            };
            self.pace.holds.answered(outcome, BTreeSet::new, wall, &mut self.rng);
            let rate = self.scene.rate;
            if self.run.found.is_none() && (0.9 * rate..1.1 * rate).contains(&self.pace.rate()) {
                self.run.found = Some(at);
            }
        }
    }
}

/// Runs a daemon with endless work through a scene.
pub fn simulate(scene: Scene, seed: u64) -> Run {
    let mut simulation = Simulation::new(scene, seed);
    let (mut out, mut change) = (0, scene.change);
    while simulation.now < scene.length {
        let next = if simulation.now >= simulation.busy {
            simulation.judge();
            simulation.send()
        } else {
            simulation.busy
        };
        // Whatever comes first: the time to look again, or something that happens on the way.
        loop {
            let event = simulation.events.peek().map_or(Duration::MAX, |Reverse((at, ..))| *at);
            let is_answered = !simulation.inbox.is_empty();
            let wakes = if is_answered { simulation.busy.max(simulation.now) } else { next };
            simulation.now = event.min(wakes);
            if let Some((_, factor)) = change.filter(|(at, _)| simulation.now >= *at) {
                simulation.limit.change(factor);
                change = None;
            }
            if event > wakes || wakes == Duration::MAX && event == Duration::MAX {
                break;
            }
            let Some(Reverse((_, flight, event))) = simulation.events.pop() else { break };
            simulation.happens(flight, event, &mut out);
        }
    }
    simulation.run
}
