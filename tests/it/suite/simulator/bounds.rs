//! How long a row may take, and how it may end: computed from the settings and the laws alone.

use std::{collections::BTreeMap, time::Duration};

use audio_cache_sweeper::model::{
    deletion::State,
    judge::MAX_ASKS,
    outcome::{Cause, Fault, RetryAfter},
};

use super::{
    api::Mood,
    laws::{Class, Singles},
    live::LATE,
    worlds::{Event, Kind, World},
};
use crate::suite::engine::Row;

/// A request of twenty rows fails at most this often until each row is alone: twice before it is split, and then with 16, 8, 4, 2
/// and 1 rows.
const ROUNDS: u32 = 7;

/// Bounds in elapsed time, and how many good rows each outage has condemned.
#[derive(Debug)]
pub struct Bounds {
    /// When the last fault ends.
    pub well: Duration,
    /// How long after that a good row may be open, and how long any row.
    pub good: Duration,
    pub all: Duration,
    /// How long a row of a healthy agent may be open, whatever happens to other agents.
    healthy: Duration,
    /// How many good rows each outage has condemned, by its beginning.
    condemned: BTreeMap<Duration, u32>,
}

fn times(duration: Duration, count: usize) -> Duration {
    duration.saturating_mul(u32::try_from(count).unwrap())
}

impl Bounds {
    pub fn of(world: &World) -> Self {
        let laws = &world.laws;
        let last_event = world.events.last().map(|(at, _)| *at).unwrap_or_default();
        let well = laws.end().max(last_event);
        let policy = world.settings.policy;
        let (hold, retry) = (world.growth.max(), policy.retry.max());
        let mut agents: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, event) in &world.events {
            if let Event::Insert(rows) = event {
                rows.iter().for_each(|(agent, _)| *agents.entry(agent).or_default() += 1);
            }
        }
        // At worst one request at a time: adaptive concurrency may have gone down to 1.
        let spacing = Duration::from_secs_f64(1.0 / world.rate.requests_per_second).max(world.latency);
        let full = usize::from(world.settings.batch_size);
        let requests: usize = agents.values().map(|rows| rows.div_ceil(full)).sum();
        // Probes take a tenth of the permits.
        let work = times(spacing, requests * 10 / 9 + agents.len() * 10 + 10);
        // The hold on everything, until its probe lifts it; then the agent's own hold; then the row's delay and linger; and the
        // work.
        let whole = hold + world.growth.base() * 3 + LATE * 3 + retry + world.settings.linger + work;
        let good = if agents.len() > 1 { whole + hold + LATE } else { whole };
        let mut bounds = Self { well, good, all: good, healthy: Duration::MAX, condemned: BTreeMap::new() };
        bounds.allow_for_bad_rows(world, spacing);
        // Each agent has its turn once. From then on, probes take a tenth of the permits. A lost call blocks its place.
        let turns = times(spacing, (requests + agents.len()) * 10 / 9);
        let lost = world.laws.agents.values().any(|(fault, _)| *fault == Fault::Lost);
        let blocked = if lost { Duration::from_secs(30) * (1 + world.settings.after_faults) } else { Duration::ZERO };
        bounds.healthy = world.settings.linger + LATE * 5 + turns + blocked;
        bounds
    }

    /// A bad row makes the rows in its request fail until they are split.
    fn allow_for_bad_rows(&mut self, world: &World, spacing: Duration) {
        let (policy, classes) = (world.settings.policy, &world.laws.classes);
        let (hold, retry) = (world.growth.max(), policy.retry.max());
        let count = |is: fn(&Class) -> bool| classes.values().filter(|class| is(class)).count();
        let poison = count(|class| matches!(class, Class::Poison(_)));
        let (gone, malformed) = (count(|class| *class == Class::Gone), count(|class| *class == Class::Malformed));
        let round = retry + hold;
        let attempts = policy.max_attempts + MAX_ASKS;
        // Each bad row costs two requests at each split, and its own attempts.
        let own = times(spacing, (poison + gone + malformed) * (2 * ROUNDS as usize + attempts as usize));
        self.good += own;
        self.all += own;
        if poison > 0 {
            self.good += times(round, poison * ROUNDS as usize);
            self.all += times(round, poison * (ROUNDS + attempts) as usize);
        }
        let can_ask = policy.ask_singly && world.laws.singles == Singles::Served;
        if gone > 0 {
            let probes = if can_ask { 1 } else { gone };
            self.all += times(round, probes * attempts as usize);
            self.good += if can_ask { round * attempts } else { times(round, probes * attempts as usize) };
        }
        if malformed > 0 {
            self.all += times(round, if can_ask { ROUNDS as usize } else { malformed });
            self.good += times(round, if can_ask { ROUNDS as usize } else { malformed });
        }
    }

    /// Whether the row must be deleted in time.
    pub fn is_good(&self, world: &World, (agent, entry): &(String, String)) -> bool {
        let is_bad_for_ever = world.laws.agents.get(agent).is_some_and(|(_, to)| *to == Duration::MAX);
        !is_bad_for_ever && world.laws.class(agent, entry) == Class::Good
    }

    /// Whether the row may stay pending, because no answer tells its fault from an outage.
    pub fn may_stay(&self, world: &World, (agent, entry): &(String, String)) -> bool {
        if world.laws.agents.get(agent).is_some_and(|(_, to)| *to == Duration::MAX) {
            return true;
        }
        let can_ask = world.settings.policy.ask_singly && world.laws.singles == Singles::Served;
        world.laws.class(agent, entry) == Class::Malformed && !can_ask
    }

    /// A good row is dead: panics unless no answer could tell the cause from a fault of the row itself.
    pub fn condemned(&mut self, world: &World, agent: &str, cause: Cause, at: Duration) {
        let cannot_ask = !world.settings.policy.ask_singly || world.laws.singles != Singles::Served;
        // If an agent fails while others get through, each of its rows is tried alone in the end.
        let whole_agent = world.laws.agents.get(agent).map(|(fault, _)| fault.cause());
        if whole_agent == Some(cause) && !matches!(cause, Cause::Forbidden | Cause::UnknownAgent | Cause::Rejected) {
            return;
        }
        if world.kind == Kind::PoliteOutage && cannot_ask && cause.is_of_an_answer() {
            return;
        }
        let mut outages = world.laws.outages.iter();
        let during = outages.rfind(|outage| outage.from <= at && at <= outage.to + Duration::from_secs(31));
        let rejects = |mood: Mood| matches!(mood, Mood::Fault(fault) if fault.cause() == Cause::Rejected);
        let Some(outage) = during.filter(|outage| cause == Cause::Rejected && rejects(outage.mood)) else {
            panic!("2: a good row of {agent} is dead ({}) at {at:?}", cause.as_str());
        };
        let count = self.condemned.entry(outage.from).or_default();
        *count += 1;
        // Rows that an earlier spell rejected are believed to be bad, because something was accepted since: at most those of one
        // request.
        let most = world.settings.after_faults + 20;
        assert!(*count <= most, "2: an outage of rejections from {:?} on has cost {count} good rows", outage.from);
    }

    /// A row has ended: panics if it took too long.
    pub fn waited(&self, world: &World, key: &(String, String), waited: Duration) {
        let is_healthy = matches!(world.kind, Kind::BadAgent | Kind::Crowd) && !world.laws.agents.contains_key(&key.0);
        let most = if world.kind == Kind::Inflow && key.1 == "1" {
            // The retry is due a first delay after the first request. The rows that came before that go first, and they come in
            // faster than the rate: sending a second's worth takes up to 1.75 s.
            Duration::from_secs(2) + world.settings.policy.retry.delay(1) * 5 / 4 * 7 / 4 + LATE * 4
        } else if is_healthy {
            self.healthy
        } else {
            return;
        };
        assert!(waited <= most, "11: {key:?} of a healthy agent waited {waited:?}, {most:?} allowed");
    }

    /// Checks the state of a row at the end of a run.
    pub fn check(&self, world: &World, row: &Row) {
        let most = world.settings.policy.max_attempts;
        assert!(row.attempts <= most, "7: {row:?}");
        let is_dead_of = |cause: Cause| row.is(State::Dead) && row.last_cause == Some(cause);
        let can_ask = world.settings.policy.ask_singly && world.laws.singles == Singles::Served;
        let key = (row.agent.clone(), row.entry.clone());
        let may_stay = row.is(State::Pending) && self.may_stay(world, &key);
        let is_right = match world.laws.class(&row.agent, &row.entry) {
            // A dead one was checked when it was condemned.
            Class::Good => !row.is(State::Pending) || may_stay,
            Class::Gone if can_ask => row.is(State::Absent),
            Class::Gone => is_dead_of(Cause::ApiFailed),
            Class::Malformed => is_dead_of(Cause::Rejected) || may_stay,
            Class::Poison(fault) => is_dead_of(fault.cause()),
        };
        assert!(is_right, "{:?}: {row:?}", world.laws.class(&row.agent, &row.entry));
    }

    /// Checks that an outage cost no more requests than its holds have probes.
    pub fn check_requests(&self, world: &World, log: &[(Duration, String, Vec<String>)]) {
        let restarts = world.events.iter().filter(|(_, event)| matches!(event, Event::Restart)).count();
        let jumps = world.events.iter().filter(|(_, event)| matches!(event, Event::SetClock(_))).count();
        for outage in &world.laws.outages {
            let sent: Vec<_> = log.iter().filter(|(at, _, _)| outage.from <= *at && *at < outage.to).collect();
            let mut agents: Vec<&str> = sent.iter().map(|(_, agent, _)| agent.as_str()).collect();
            agents.sort_unstable();
            agents.dedup();
            let (base, max) = (world.growth.base(), world.growth.delay(u32::MAX));
            let doublings = (max.as_secs_f64() / base.as_secs_f64()).log2().ceil() as usize + 2;
            // A `Retry-After` is obeyed.
            let asked = match outage.mood {
                Mood::Fault(fault) => fault.retry_after(),
                Mood::Ok
                | Mood::Partial
                | Mood::Silent
                | Mood::Contradictory
                | Mood::Strangers
                | Mood::Status(_)
                | Mood::Throttled(..)
                | Mood::Hang(_)
                | Mood::Reset(_)
                | Mood::Garbage
                | Mood::Unreachable
                | Mood::AllFailed
                | Mood::Neither
                | Mood::OnlyStrangers => None,
            };
            let longest = match asked {
                Some(RetryAfter::Seconds(asked)) => asked as f64,
                Some(RetryAfter::At(_)) | None => max.as_secs_f64(),
            };
            let probes = doublings + ((outage.to - outage.from).as_secs_f64() / longest).ceil() as usize;
            // If each agent has a hold of its own, each is probed.
            let of_agents = matches!(outage.mood, Mood::Fault(Fault::Status { status: 403 | 404 | 409, .. }));
            let holds = if of_agents { agents.len() + 1 } else { 2 };
            let at_first = world.settings.concurrency + 2 * world.settings.after_faults as usize + 2 * agents.len();
            // A rejected request is split to single rows before it counts as a fault.
            let is_rejection = matches!(outage.mood, Mood::Fault(fault) if fault.cause() == Cause::Rejected);
            let split =
                if is_rejection { 2 * world.events.iter().map(|(_, event)| event.rows()).sum::<usize>() } else { 0 };
            let most = holds * probes + at_first * (1 + restarts + jumps) + split;
            let count = sent.len();
            assert!(
                count <= most,
                "an outage of {:?} ({:?}) cost {count} requests, {most} allowed",
                outage.to - outage.from,
                outage.mood
            );
        }
    }
}
