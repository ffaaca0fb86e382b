//! A gateway with fixed windows that tells them, and a client that has as much to send as it may, in virtual time.

use std::{collections::BTreeMap, time::Duration};

use super::{ROUNDED, millis, pace, seconds};
use crate::{model::window::Window, pace::Pace};
/// A fixed window of the gateway.
#[derive(Clone, Debug)]
pub struct Fixed {
    pub limit: u32,
    pub length: u64,
    /// When the first window began before the start.
    pub offset: Duration,
    pub count: u32,
    pub number: u128,
}

/// What the gateway tells of its windows.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    /// Everything.
    All,
    /// Everything but the time to the reset.
    NoReset,
    /// Everything but the length.
    NoLength,
    /// Only limit and length.
    PolicyOnly,
}

impl Fixed {
    pub fn new(limit: u32, length: u64, offset: Duration, used: u32) -> Self {
        Self { limit, length, offset, count: used.min(limit), number: 0 }
    }

    pub fn roll(&mut self, now: Duration) {
        let number = (now + self.offset).as_nanos() / seconds(self.length).as_nanos();
        if number > self.number {
            (self.number, self.count) = (number, 0);
        }
    }

    fn told(&self, now: Duration, style: Style, rounds_up: bool) -> Window {
        let length = seconds(self.length);
        let into = (now + self.offset).as_nanos() % length.as_nanos();
        let left = length - Duration::from_nanos(u64::try_from(into).unwrap());
        let whole = left.as_secs() + u64::from(rounds_up && left.subsec_nanos() > 0);
        let all = Window {
            limit: Some(self.limit),
            length: Some(length),
            remaining: Some(self.limit - self.count),
            reset: Some(seconds(whole)),
        };
        match style {
            Style::All => all,
            Style::NoReset => Window { reset: None, ..all },
            Style::NoLength => Window { length: None, ..all },
            Style::PolicyOnly => Window { reset: None, remaining: None, ..all },
        }
    }
}

/// A client that has as much to send as it may, and a gateway.
pub struct World {
    pub pace: Pace,
    pub windows: Vec<Fixed>,
    pub style: Style,
    pub rounds_up: bool,
    pub counts_refused: bool,
    pub concurrency: usize,
    /// The time between the sending of a request and its count, and from there to the answer: the most of each.
    pub latency: (Duration, Duration),
    /// The time from the permit to the sending: the most.
    pub commit: Duration,
    /// The share of requests whose answers are lost.
    pub lost: f64,
    pub rng: fastrand::Rng,
    pub now: Duration,
    pub newest: i64,
    pub accepted: u32,
    pub refused: u32,
    /// The number of refused requests that were decided on when the limit was known.
    pub overrun: u32,
    pub has_heard: bool,
    /// When the last request left, and the longest time without one.
    pub left: Duration,
    pub longest_pause: Duration,
    pub events: BTreeMap<(Duration, i64), Step>,
}

/// What happens to a request next.
#[derive(Clone, Debug)]
pub enum Step {
    /// The gateway counts it. `knows`: see [`World::knows`].
    Counted { sent: Duration, knows: bool },
    /// The answer comes, unless it is lost.
    Answered { sent: Duration, windows: Option<Vec<Window>> },
}

impl World {
    pub fn new(ceiling: f64, windows: Vec<Fixed>, rng: fastrand::Rng) -> Self {
        let pace = pace(ceiling);
        Self {
            pace,
            windows,
            style: Style::All,
            rounds_up: false,
            counts_refused: false,
            concurrency: 8,
            latency: (millis(30), millis(30)),
            commit: Duration::ZERO,
            lost: 0.0,
            rng,
            now: Duration::ZERO,
            newest: 0,
            accepted: 0,
            refused: 0,
            overrun: 0,
            has_heard: false,
            left: Duration::ZERO,
            longest_pause: Duration::ZERO,
            events: BTreeMap::new(),
        }
    }

    fn draw(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.f64())
    }

    /// Whether an answer has come. If the length is not told and answers are lost, the time to a reset must have been told whose
    /// window is as long, but for a fraction of a second.
    fn knows(&self) -> bool {
        let is_told = !matches!(self.style, Style::NoLength) || self.lost == 0.0;
        let is_known = |fixed: &Fixed| {
            self.pace.told.windows.iter().any(|known| known.longest_reset + ROUNDED >= seconds(fixed.length))
        };
        self.has_heard && (is_told || self.windows.iter().all(is_known))
    }

    fn in_flight(&self) -> usize {
        self.events.len()
    }

    pub fn run(&mut self, until: Duration) {
        while self.now < until {
            while self.in_flight() < self.concurrency && self.pace.take(self.now) {
                let commit = self.draw(self.commit);
                let sent = self.now + commit;
                self.pace.leave(sent);
                self.newest += 1;
                let counted = sent + self.draw(self.latency.0);
                self.events.insert((counted, self.newest), Step::Counted { sent, knows: self.knows() });
                self.now = sent;
                self.pause();
                self.left = sent;
                self.happen();
            }
            let next = if self.in_flight() < self.concurrency { self.pace.next() } else { Duration::MAX };
            let event = self.events.first_key_value().map_or(Duration::MAX, |((at, _), _)| *at);
            assert!(event.min(next) < Duration::MAX, "nothing ever goes on");
            if event > next.max(self.now) {
                self.now = next.max(self.now + Duration::from_nanos(1));
                continue;
            }
            self.now = self.now.max(event);
            self.happen();
        }
        self.pause();
    }

    fn pause(&mut self) {
        self.longest_pause = self.longest_pause.max(self.now.saturating_sub(self.left));
    }

    /// Has nothing to send until then.
    pub fn rest(&mut self, until: Duration) {
        self.now = self.now.max(until);
        self.left = self.now;
        self.happen();
    }

    /// Lets everything happen that is due.
    fn happen(&mut self) {
        while let Some(event) = self.events.first_entry().filter(|event| event.key().0 <= self.now) {
            let ((at, request), step) = event.remove_entry();
            self.step(at, request, step);
        }
    }

    fn step(&mut self, at: Duration, request: i64, step: Step) {
        match step {
            Step::Counted { sent, knows } => {
                let windows = self.count(at, knows);
                let answered = at + self.draw(self.latency.1);
                let windows = (self.rng.f64() >= self.lost).then_some(windows);
                self.events.insert((answered, request), Step::Answered { sent, windows });
            }
            Step::Answered { sent, windows } => {
                self.has_heard |= windows.is_some();
                self.pace.ended(sent, at, windows.as_deref());
            }
        }
    }

    /// The gateway counts a request.
    fn count(&mut self, now: Duration, knows: bool) -> Vec<Window> {
        self.windows.iter_mut().for_each(|window| window.roll(now));
        let ok = self.windows.iter().all(|window| window.count < window.limit);
        for window in &mut self.windows {
            if ok || self.counts_refused {
                window.count = (window.count + 1).min(window.limit);
            }
        }
        self.accepted += u32::from(ok);
        self.refused += u32::from(!ok);
        self.overrun += u32::from(!ok && knows);
        self.windows.iter().map(|window| window.told(now, self.style, self.rounds_up)).collect()
    }
}
