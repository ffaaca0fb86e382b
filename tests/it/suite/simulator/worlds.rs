//! The worlds that a seed draws: their rows, events, laws and settings.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{backoff::Backoff, judge::Policy, outcome::Fault},
    pace::RateLimit,
    worker::{LoggedRequests, Settings},
};

use super::{
    api::{Mood, NOT_A_NUMBER},
    laws::{Class, Entry, Laws, Outage, Singles, retry_after, status},
};

/// Something that happens at a time.
#[derive(Clone, Debug)]
pub enum Event {
    Insert(Vec<Entry>),
    /// The clock is set by this many milliseconds.
    SetClock(i64),
    /// The daemon dies, and another one starts.
    Restart,
}

/// The kind of a world, after the fault that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Poison,
    PoisonAmongAgents,
    BadAgent,
    Crowd,
    Outage,
    PoliteOutage,
    Backup,
    Malformed,
    Swaps,
    Clocks,
    Inflow,
}

pub const KINDS: [Kind; 11] = [
    Kind::Poison,
    Kind::PoisonAmongAgents,
    Kind::BadAgent,
    Kind::Crowd,
    Kind::Outage,
    Kind::PoliteOutage,
    Kind::Backup,
    Kind::Malformed,
    Kind::Swaps,
    Kind::Clocks,
    Kind::Inflow,
];

/// A drawn world.
#[derive(Debug)]
pub struct World {
    pub kind: Kind,
    pub laws: Laws,
    pub events: Vec<(Duration, Event)>,
    pub settings: Settings,
    pub growth: Backoff,
    pub rate: RateLimit,
    pub adaptive: bool,
    /// The longest time to an answer.
    pub latency: Duration,
}

pub const HOUR: Duration = Duration::from_secs(3_600);

fn seconds(range: std::ops::Range<u64>, rng: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(rng.u64(range.start * 1_000..range.end * 1_000))
}

fn pick<T: Copy>(from: &[T], rng: &mut fastrand::Rng) -> T {
    from[rng.usize(..from.len())]
}

fn settings(rng: &mut fastrand::Rng) -> (Settings, Backoff) {
    let longest_hold = Duration::from_secs(pick(&[60, 600], rng));
    let retry = Backoff::new(Duration::from_secs(10), Duration::from_secs(pick(&[60, 600], rng))).unwrap();
    let policy = Policy {
        max_attempts: pick(&[3, 8], rng),
        ask_singly: rng.u8(..4) > 0,
        retry,
        min_retry_after: Duration::from_secs(1),
        max_retry_after: HOUR,
    };
    let settings = Settings {
        batch_size: pick(&[20, 20, 20, 7], rng),
        concurrency: pick(&[1, 4, 16], rng),
        linger: Duration::from_millis(500),
        policy,
        after_faults: 3,
        longest_hold,
        poll_interval: Duration::from_millis(100),
        retention: 24 * 365 * HOUR,
        evidence_retention: Duration::ZERO,
        grace: Duration::ZERO,
        request_timeout: Duration::ZERO,
        logged_requests: LoggedRequests::All,
    };
    (settings, Backoff::new(Duration::from_secs(1), longest_hold).unwrap())
}

impl World {
    pub fn draw(seed: u64, rng: &mut fastrand::Rng) -> Self {
        let kind = KINDS[usize::try_from(seed % KINDS.len() as u64).unwrap()];
        let (settings, growth) = settings(rng);
        let rate =
            RateLimit { requests_per_second: pick(&[5.0, 50.0], rng), burst: pick(&[1, 5], rng).try_into().unwrap() };
        let latency = Duration::from_millis(pick(&[20, 150], rng));
        let (laws, events, adaptive) = (Laws::new(), Vec::new(), rng.bool());
        let mut world = Self { kind, laws, events, settings, growth, rate, adaptive, latency };
        match kind {
            Kind::Poison => world.poison(1, rng),
            Kind::PoisonAmongAgents => {
                let agents = rng.usize(2..5);
                world.poison(agents, rng);
            }
            Kind::BadAgent => world.bad_agent(rng),
            Kind::Crowd => world.crowd(rng),
            Kind::Outage => world.outage(rng),
            Kind::PoliteOutage => world.polite_outage(rng),
            Kind::Backup => world.backup(rng),
            Kind::Malformed => world.malformed(rng),
            Kind::Swaps => world.swaps(rng),
            Kind::Clocks => world.clocks(rng),
            Kind::Inflow => world.inflow(rng),
        }
        world
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.events.push((at, event));
    }

    /// Inserts entries of `agent` with these IDs at the beginning.
    fn rows(&mut self, agent: &str, ids: std::ops::Range<usize>) -> Vec<Entry> {
        let rows: Vec<Entry> = ids.map(|id| (agent.to_owned(), id.to_string())).collect();
        self.at(Duration::ZERO, Event::Insert(rows.clone()));
        rows
    }

    fn some_agents(&mut self, agents: usize, most: usize, rng: &mut fastrand::Rng) -> Vec<Entry> {
        let rows = (0..agents).flat_map(|agent| {
            let count = rng.usize(1..most);
            self.rows(&format!("agent-{agent}"), 1..1 + count)
        });
        rows.collect()
    }

    fn poison(&mut self, agents: usize, rng: &mut fastrand::Rng) {
        let faults = [
            status(500),
            status(502),
            status(408),
            status(409),
            status(410),
            status(412),
            status(415),
            status(520),
            retry_after(503, rng.u64(1..30)),
            Fault::Lost,
            Fault::Garbled,
        ];
        let count = rng.usize(2..61);
        let first = self.rows("agent-0", 1..1 + count);
        for agent in 1..agents {
            let count = rng.usize(1..61);
            self.rows(&format!("agent-{agent}"), 1..1 + count);
        }
        for _ in 0..pick(&[1, 1, 1, 2, 3], rng).min(count / 2) {
            self.laws.classes.insert(first[rng.usize(..count)].clone(), Class::Poison(pick(&faults, rng)));
        }
    }

    fn bad_agent(&mut self, rng: &mut fastrand::Rng) {
        self.some_agents(5, 200, rng);
        let fault = pick(&[status(500), status(502), status(409), status(403), status(404), Fault::Lost], rng);
        let to = if rng.bool() { seconds(60..7_200, rng) } else { Duration::MAX };
        self.laws.agents.insert("agent-0".to_owned(), (fault, to));
        // Healthy agents always have rows to send.
        for n in 1..rng.u64(5..30) {
            let agent = format!("agent-{}", rng.usize(1..5));
            let rows = (1_000 * n..1_000 * n + rng.u64(1..30)).map(|id| (agent.clone(), id.to_string())).collect();
            self.at(Duration::from_secs(20 * n), Event::Insert(rows));
        }
    }

    fn crowd(&mut self, rng: &mut fastrand::Rng) {
        // Their probes alone could take the whole rate.
        self.rate = RateLimit { requests_per_second: 5.0, burst: 1.try_into().unwrap() };
        let to = if rng.bool() { seconds(60..1_800, rng) } else { Duration::MAX };
        for agent in 0..300 {
            let agent = format!("agent-{agent}");
            self.rows(&agent, 1..2);
            self.laws.agents.insert(agent, (status(pick(&[403, 404], rng)), to));
        }
        let count = rng.usize(1_000..1_500);
        self.rows("good", 1..1 + count);
    }

    fn spells(&mut self, moods: &[Mood], rng: &mut fastrand::Rng) {
        let mut from = if rng.bool() { Duration::ZERO } else { seconds(0..5, rng) };
        let mood = pick(moods, rng);
        for _ in 0..rng.usize(1..4) {
            let to = from + seconds(5..7_200, rng);
            self.laws.outages.push(Outage { from, to, mood });
            from = to + seconds(1..600, rng);
        }
        self.restarts(rng);
    }

    fn restarts(&mut self, rng: &mut fastrand::Rng) {
        for _ in 0..pick(&[0, 0, 1, 3], rng) {
            // Orphans count their attempt, whatever the API did. So a row must have some attempts to spare.
            self.settings.policy.max_attempts = 8;
            let at = seconds(0..7_200, rng);
            self.at(at, Event::Restart);
        }
    }

    fn outage(&mut self, rng: &mut fastrand::Rng) {
        let agents = pick(&[1, 1, 2, 5, 40], rng);
        self.some_agents(agents, 100, rng);
        let moods = [
            status(500),
            status(502),
            retry_after(503, 20),
            status(400),
            status(413),
            status(422),
            status(404),
            status(401),
            status(409),
            status(302),
            Fault::Lost,
            Fault::Garbled,
            Fault::Unreachable,
        ];
        self.spells(&moods.map(Mood::Fault), rng);
    }

    fn polite_outage(&mut self, rng: &mut fastrand::Rng) {
        let agents = pick(&[1, 1, 2, 5, 40], rng);
        self.some_agents(agents, 100, rng);
        self.spells(&[Mood::AllFailed, Mood::Neither, Mood::OnlyStrangers], rng);
    }

    fn backup(&mut self, rng: &mut fastrand::Rng) {
        let agents = pick(&[1, 2], rng);
        let rows = self.some_agents(agents, 150, rng);
        let share = pick(&[30, 90, 100], rng);
        for row in rows.into_iter().filter(|_| rng.u8(..100) < share) {
            self.laws.classes.insert(row, Class::Gone);
        }
        self.laws.singles = pick(&[Singles::Served, Singles::Served, Singles::Refused, Singles::Unrouted], rng);
    }

    fn malformed(&mut self, rng: &mut fastrand::Rng) {
        let (bad, good) = (pick(&[1, 3, 300], rng), rng.usize(1..200));
        let mut rows: Vec<Entry> = (0..bad).map(|id| ("a".to_owned(), format!("{NOT_A_NUMBER}{id}"))).collect();
        self.laws.classes.extend(rows.iter().cloned().map(|row| (row, Class::Malformed)));
        let valid = (1..=good).map(|id| ("a".to_owned(), id.to_string()));
        match rng.u8(..3) {
            0 => rows.extend(valid),
            1 => rows = valid.chain(rows).collect(),
            _ => {
                rows.extend(valid);
                rng.shuffle(&mut rows);
            }
        }
        self.at(Duration::ZERO, Event::Insert(rows));
    }

    fn swaps(&mut self, rng: &mut fastrand::Rng) {
        // All agents have the same IDs, so a swapped answer may list them.
        for agent in 0..rng.usize(2..5) {
            self.rows(&format!("agent-{agent}"), 1..200);
        }
        self.settings.concurrency = pick(&[4, 16], rng);
        self.settings.policy.max_attempts = 8;
        self.settings.policy.ask_singly = true;
        self.laws.swaps = (seconds(5..60, rng), 30);
    }

    fn clocks(&mut self, rng: &mut fastrand::Rng) {
        let agents = pick(&[1, 3], rng);
        let rows = self.some_agents(agents, 60, rng);
        self.laws.flaky.extend(rows.into_iter().filter(|_| rng.u8(..10) == 0));
        let mood = pick(&[status(500), status(404), status(401), retry_after(503, 20)].map(Mood::Fault), rng);
        let from = seconds(0..60, rng);
        let to = from + seconds(60..600, rng);
        if rng.u8(..4) > 0 {
            self.laws.outages.push(Outage { from, to, mood });
        }
        let by = pick(&[3_600_000, 90_000_000, 94_608_000_000], rng);
        let (set, right) = (seconds(0..60, rng), seconds(60..600, rng));
        if rng.u8(..3) > 0 {
            self.at(set, Event::SetClock(by));
            self.at(right, Event::SetClock(-by));
        } else {
            self.at(set, Event::SetClock(-by));
        }
        self.restarts(rng);
        let later = (5_000..5_030).map(|id| ("agent-0".to_owned(), id.to_string())).collect();
        self.at(seconds(0..600, rng), Event::Insert(later));
    }

    fn inflow(&mut self, rng: &mut fastrand::Rng) {
        self.rate = RateLimit { requests_per_second: 2.0, burst: 1.try_into().unwrap() };
        self.settings.batch_size = 20;
        self.settings.concurrency = 4;
        self.adaptive = false;
        let mut next = 1..1_u64;
        for second in 0..40 {
            next = next.end..next.end + rng.u64(50..70);
            let rows = next.clone().map(|id| ("a".to_owned(), id.to_string())).collect();
            self.at(Duration::from_secs(second), Event::Insert(rows));
        }
        self.laws.flaky.insert(("a".to_owned(), "1".to_owned()));
    }
}

impl Event {
    /// How many rows it brings.
    pub fn rows(&self) -> usize {
        match self {
            Self::Insert(rows) => rows.len(),
            Self::SetClock(_) | Self::Restart => 0,
        }
    }
}
