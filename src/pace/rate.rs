//! The adaptive rate. PolyAI publishes no limit, so the daemon searches for it by sending.
//!
//! A limit is a rate, and a number of requests that it lets through at once. Neither is known. In any time, a limit lets through
//! at most its rate times the time, and that number. So deliveries show a rate that it allows at least, and a throttled answer
//! shows one that is too high. The rate falls quickly and climbs slowly, as in TCP's congestion control:
//!
//! * **Down.** After a throttled answer, a hold lets only probes out. The first probe that is delivered ends the excess. Then the
//!   rate is just below the one that the deliveries show. If they show little, it goes half the way. If the rate is too high all
//!   the same, without a step up, more requests went through at once than assumed: that number doubles, and with it the time over
//!   which the deliveries are measured. It halves with each excess that a step up caused.
//! * **Windows.** If the API refuses for long, a window of the limit is used up. The requests that were delivered in it, divided by
//!   the time of sending and of the refusal, are the rate (TCP Westwood+: Casetti et al., "TCP Westwood: end-to-end congestion
//!   control", 2002).
//! * **Search.** If the new rate is far below the one that was too high, the limit is between the two, as in BIC (Xu, Harfoush and
//!   Rhee, "Binary increase congestion control for fast long-distance networks", 2004). The steps grow at first, and get smaller
//!   again towards the higher rate.
//! * **Stay** on a plateau below the rate that was too high, as in CUBIC (RFC 9438, section 4), so that few answers are throttled.
//!   A plateau is never longer than the time that is known.
//! * **Up** after the plateau, in steps that start small and grow, so that a raised limit is found. Idle time does not count,
//!   because an unused rate is not known to be borne.
//!
//! Time comes in as a value, and every change goes out as one.

use std::time::Duration;

use super::{Tuning, deliveries::Deliveries};

/// Why the rate changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An answer was throttled.
    Throttled,
    /// The API answers again, and the measured rate differs from the present one.
    Delivered,
    /// No answer was throttled for long enough, so the rate takes a step up.
    Probing,
    /// The API's headers tell a lower limit, or another one, or none any more.
    Told,
    /// An earlier process has learnt it.
    Learnt,
}

impl Why {
    /// The string in the logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Delivered => "delivered",
            Self::Probing => "probing",
            Self::Told => "told",
            Self::Learnt => "learnt",
        }
    }
}

/// A change of the rate, in requests per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateChange {
    /// The rate before the change.
    pub from: f64,
    /// The rate after the change.
    pub to: f64,
    /// The reason.
    pub why: Why,
}

/// An excess: from a throttled answer until a later request is answered and not throttled.
#[derive(Clone, Copy, Debug)]
pub struct Excess {
    /// The rate that was too high.
    pub at: f64,
    /// When the first throttled request left, in elapsed time.
    pub left: Duration,
    /// When the first answer was throttled, in elapsed time.
    pub since: Duration,
    /// The number of throttled answers.
    pub throttled: u32,
    /// When the last probe was throttled, in elapsed time.
    pub probed: Option<Duration>,
}

/// The current rate, below its ceiling.
#[derive(Clone, Debug)]
pub struct AdaptiveRate {
    tuning: Tuning,
    ceiling: f64,
    current: f64,
    /// The requests that were delivered, in time of sending: elapsed time without the idle time.
    deliveries: Deliveries,
    /// The end of the last excess, in time of sending; and the number of deliveries and the idle time up to then.
    since: (Duration, u64, Duration),
    /// The idle time so far, and up to the last step; and when the next request is due if there is one.
    idle: Duration,
    idle_before: Duration,
    due_at: Duration,
    /// How many requests the limit lets through at once, as far as we know.
    at_once: f64,
    /// The number of excesses in a row at a rate that the deliveries had shown.
    strikes: u32,
    /// The deliveries have shown the present rate, and it has not taken a step up since.
    is_shown: bool,
    /// The rate has taken a step up since the last excess.
    has_stepped: bool,
    /// The size of the next step, its elapsed time, and the time between steps.
    step: f64,
    step_at: Duration,
    step_time: Duration,
    /// During a search, the rate at which it ends; and the length of the plateau after it.
    searched: Option<f64>,
    plateau: Duration,
}

impl AdaptiveRate {
    /// Starts at the ceiling, in requests per second.
    #[must_use]
    pub fn new(ceiling: f64, elapsed: Duration) -> Self {
        Self::tuned(ceiling, Tuning::DEFAULT, elapsed)
    }

    /// Starts at the ceiling, in requests per second, with other numbers.
    #[must_use]
    pub fn tuned(ceiling: f64, tuning: Tuning, elapsed: Duration) -> Self {
        Self {
            tuning,
            ceiling,
            current: ceiling,
            deliveries: Deliveries::new(tuning.least_time),
            since: (elapsed, 0, Duration::ZERO),
            idle: Duration::ZERO,
            idle_before: Duration::ZERO,
            due_at: elapsed,
            at_once: 0.0,
            strikes: 0,
            is_shown: false,
            has_stepped: false,
            step: tuning.step,
            step_at: elapsed,
            step_time: tuning.min_step_time,
            searched: None,
            plateau: Duration::ZERO,
        }
    }

    /// The current rate in requests per second.
    #[must_use]
    pub fn current(&self) -> f64 {
        self.current
    }

    /// The ceiling in requests per second.
    #[must_use]
    pub fn ceiling(&self) -> f64 {
        self.ceiling
    }

    /// Whether the current rate is below the ceiling.
    #[must_use]
    pub fn is_lowered(&self) -> bool {
        self.current < self.ceiling
    }

    /// Whether the rate has taken a step up since the last excess, so that it may be too high now.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.has_stepped
    }

    /// Replaces the ceiling, in requests per second. A rate that was learnt is kept, if it is not above the new ceiling.
    pub fn set_ceiling(&mut self, ceiling: f64) {
        self.current = if self.is_lowered() { self.current.min(ceiling) } else { ceiling };
        self.ceiling = ceiling;
    }

    /// Goes on from a rate that an earlier process has learnt, in requests per second.
    pub fn resume(&mut self, rate: f64, elapsed: Duration) {
        self.current = rate.clamp(self.tuning.floor.min(self.ceiling), self.ceiling);
        self.climb_from(None, self.tuning.step, elapsed);
        self.step_at = elapsed + self.tuning.min_plateau;
    }

    /// Takes in that a request leaves at `at`. `is_refused`: an excess goes on, so a pause before it is not idle time.
    pub fn sent(&mut self, at: Duration, is_refused: bool) {
        let pause = at.saturating_sub(self.tuning.late).saturating_sub(self.due_at);
        if !is_refused {
            self.idle += pause;
            self.step_at += pause;
            if pause > self.tuning.window {
                self.deliveries = Deliveries::new(self.tuning.least_time);
                self.since = (self.sending(at), 0, self.idle);
            }
        }
        self.due_at += pause + Duration::from_secs_f64(1.0 / self.current);
    }

    /// Counts the answer to a request that left at `departure` and was not throttled.
    pub fn delivered(&mut self, departure: Duration) {
        self.deliveries.add(self.sending(departure));
    }

    /// Lowers the rate a little, because it was exceeded.
    pub fn exceeded(&mut self) -> Option<RateChange> {
        self.change(self.current * self.tuning.margin, Why::Throttled)
    }

    /// Takes a step up, if it is time for one.
    pub fn climb(&mut self, elapsed: Duration) -> Option<RateChange> {
        if !self.is_lowered() || elapsed < self.step_at {
            return None;
        }
        self.step_at = elapsed + self.step_time;
        // Fewer requests in flight may keep the rate from being used.
        let idle = self.idle.saturating_sub(std::mem::replace(&mut self.idle_before, self.idle));
        if idle > self.step_time / 4 {
            return None;
        }
        let factor = 1.0 + self.step;
        self.step = (self.step * self.tuning.step_growth).min(self.tuning.leap - 1.0);
        self.has_stepped = true;
        let to = match self.searched {
            None => self.current * factor,
            Some(end) => {
                let most = (end / self.current).powf(self.tuning.searched_at_once).max(1.0 + self.tuning.step);
                let to = end.min(self.current * factor.min(most));
                if to == end {
                    self.stay(elapsed);
                }
                to
            }
        };
        self.change(to, Why::Probing)
    }

    /// Ends an excess: the API answers again.
    pub fn recover(&mut self, excess: &Excess, elapsed: Duration) -> Option<RateChange> {
        let refusal = self.refusal(excess, elapsed);
        let is_long = self.is_long(excess, refusal);
        self.strike(is_long);
        let measured = self.of_window(excess, refusal).filter(|_| is_long);
        let next = measured.unwrap_or_else(|| self.shown(excess));
        let next = next.max(self.least(excess.at)).min(excess.at * self.tuning.margin);
        self.at_once = if measured.is_some() { self.at_once.max(1.0) } else { self.at_once };
        self.is_shown &= measured.is_none();
        let change = self.change(next, Why::Delivered);
        self.has_stepped = false;
        self.since = (self.sending(elapsed), self.deliveries.count(), self.idle);
        self.step_time = (refusal / 2).clamp(self.tuning.min_step_time, self.tuning.max_step_time);
        let requests = f64::from(excess.throttled) * self.tuning.plateau_requests;
        self.plateau = Duration::from_secs_f64(requests / self.current).min(self.tuning.max_plateau);
        // A limit that lets nothing through at once is between the last two steps.
        let is_sharp = self.at_once == 0.0 && measured.is_none();
        let apart = if is_sharp { 1.0 + 3.0 * (1.0 - self.tuning.margin) } else { self.tuning.apart };
        if self.current <= self.tuning.floor {
            // At the lowest rate, a plateau would only delay the way back.
            self.climb_from(None, 1.0, elapsed);
        } else if excess.at > apart * next {
            self.climb_from(Some(excess.at * self.tuning.margin), self.tuning.searching_step, elapsed);
        } else {
            self.stay(elapsed);
        }
        change
    }

    /// Whether the API refused a probe, or for longer than our own hold takes.
    #[must_use]
    pub fn is_refused_for_long(&self, excess: &Excess, elapsed: Duration) -> bool {
        excess.probed.is_some() || elapsed.saturating_sub(excess.since) > self.tuning.own_hold
    }

    /// How long the API refused. An outage does not count.
    fn refusal(&self, excess: &Excess, elapsed: Duration) -> Duration {
        // The limit reopened between the last refused probe and this answer. The midpoint is assumed.
        let until = excess.probed.map_or(elapsed, |probed| probed + elapsed.saturating_sub(probed) / 2);
        let refusal = until.saturating_sub(excess.since);
        if refusal > self.tuning.window * 3 / 2 { Duration::ZERO } else { refusal }
    }

    /// Whether the API refused for longer than our own hold took: a probe was refused as well, or the API asked for more time.
    fn is_long(&self, excess: &Excess, refusal: Duration) -> bool {
        let sending = self.sending(excess.left).saturating_sub(self.since.0);
        excess.probed.is_some() || (refusal > self.tuning.own_hold && sending < refusal)
    }

    /// Learns how many requests the limit lets through at once.
    fn strike(&mut self, is_long: bool) {
        if self.is_shown && !self.has_stepped && !is_long {
            self.at_once = (self.at_once * 2.0).max(1.0);
            self.strikes += 1;
        } else {
            self.strikes = 0;
            self.at_once = if self.at_once >= 1.0 { self.at_once / 2.0 } else { 0.0 };
        }
    }

    /// The rate of a limit whose window was used up, if enough is known.
    fn of_window(&self, excess: &Excess, refusal: Duration) -> Option<f64> {
        let (delivered, credible) = (self.deliveries.count() - self.since.1, self.tuning.credible);
        let is_credible = delivered >= u64::from(credible) && refusal.as_secs_f64() * excess.at >= f64::from(credible);
        let over = self.sending(excess.since).saturating_sub(self.since.0) + refusal;
        // If most of the time was idle, the refusal may have been idle time, too.
        let is_busy = self.idle.saturating_sub(self.since.2) <= over;
        (is_credible && is_busy).then(|| delivered as f64 / over.as_secs_f64())
    }

    /// The rate just below the one that the deliveries show, or half the way there if they show little.
    fn shown(&mut self, excess: &Excess) -> f64 {
        let allowed = self.deliveries.allowed(self.at_once, self.sending(excess.left));
        let is_near = allowed * self.tuning.leap >= excess.at;
        self.is_shown = is_near && self.deliveries.count() >= u64::from(self.tuning.credible);
        if is_near {
            allowed * self.tuning.margin
        } else {
            (allowed * excess.at).sqrt().max(excess.at / self.tuning.leap)
        }
    }

    /// The lowest next rate after strikes. Deliveries of a short time show little, so the rate falls in growing steps.
    fn least(&self, at: f64) -> f64 {
        let Some(before) = self.strikes.checked_sub(1) else { return 0.0 };
        at * (1.0 - 2.5 * (1.0 - self.tuning.margin) * f64::from(1_u32 << before.min(4)))
    }

    fn climb_from(&mut self, searched: Option<f64>, step: f64, elapsed: Duration) {
        (self.searched, self.step, self.step_at) = (searched, step, elapsed + self.step_time);
    }

    /// Begins a plateau.
    fn stay(&mut self, elapsed: Duration) {
        self.step_time = self.step_time.max(self.plateau / self.tuning.plateau_steps);
        self.climb_from(None, self.tuning.step, elapsed);
        let known = self.deliveries.since().map_or(Duration::ZERO, |since| self.sending(elapsed).saturating_sub(since));
        self.step_at = elapsed + self.plateau.max(self.tuning.min_plateau).min(known);
    }

    /// Elapsed time without the idle time.
    fn sending(&self, elapsed: Duration) -> Duration {
        elapsed.saturating_sub(self.idle)
    }

    fn change(&mut self, to: f64, why: Why) -> Option<RateChange> {
        let from = std::mem::replace(&mut self.current, to.clamp(self.tuning.floor.min(self.ceiling), self.ceiling));
        (from != self.current).then_some(RateChange { from, to: self.current, why })
    }
}
