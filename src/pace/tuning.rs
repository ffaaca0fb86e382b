//! The numbers that the search for the rate depends on.

use std::time::Duration;

/// The numbers, each with its reason. A scenario in the tests fails without each of them.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// The next rate after an excess, as a share of the rate that got through or was too high: a network delays one request more
    /// than the next, and a limit without a burst counts the shorter of the two gaps.
    pub margin: f64,
    /// With fewer answers than this, a measured rate is not reliable.
    pub credible: u32,
    /// While less is known than this factor between a rate that got through and one that was too high, the rate goes half the
    /// way, in equal factors. A ceiling may be a hundred times the limit.
    pub leap: f64,
    /// If the rate that was too high exceeds the next one by more than this factor, the limit is searched between them: a refusal
    /// may have been longer than necessary.
    pub apart: f64,
    /// A hold of our own is no longer than this. A longer refusal is the API's, and belongs to a limit with a window.
    pub own_hold: Duration,
    /// A plateau lasts as long as this many requests for each throttled answer before it, so that at most one answer in as many is
    /// throttled, within the two limits.
    pub plateau_requests: f64,
    /// The shortest plateau, once as much is known. A raised limit is then used within three minutes.
    pub min_plateau: Duration,
    /// The longest plateau. A low rate takes long to send its requests.
    pub max_plateau: Duration,
    /// The first step up after a plateau, as a share of the rate. A limit without a burst throttles as soon as it is exceeded, so
    /// the first steps show where it is.
    pub step: f64,
    /// The first step up in a search, as a share of the rate.
    pub searching_step: f64,
    /// The factor from each step to the next. A limit that was raised far is found in few steps.
    pub step_growth: f64,
    /// One step of a search multiplies the rate by at most (end / current) to this power, as in BIC: near the rate that was too
    /// high, steps are small again.
    pub searched_at_once: f64,
    /// The shortest time between steps. An answer takes this long now and then.
    pub min_step_time: Duration,
    /// The longest time between steps, which is half of the refusal otherwise: a limit with a long window refuses late, and then
    /// for long.
    pub max_step_time: Duration,
    /// The time between two steps after a plateau is at least one part of it in as many. At a low rate, few requests go between two
    /// steps, and a window shows late that it is used up.
    pub plateau_steps: u32,
    /// The shortest time over which a rate is measured. Over a shorter time, one answer more or less counts too much.
    pub least_time: Duration,
    /// The longest window that we assume a limit has. A refusal of more than one and a half is an outage. After an idle time this
    /// long, measuring restarts.
    pub window: Duration,
    /// How late a request may leave without idle time, because turns come late.
    pub late: Duration,
    /// The lowest rate, in requests per second, unless the ceiling is lower: one request in fifty seconds.
    pub floor: f64,
}

impl Tuning {
    /// The numbers in use, found by simulation and tried behind real gateways.
    pub const DEFAULT: Self = Self {
        margin: 0.98,
        credible: 10,
        leap: 4.0,
        apart: 1.5,
        own_hold: Duration::from_secs(2),
        plateau_requests: 250.0,
        min_plateau: Duration::from_secs(100),
        max_plateau: Duration::from_secs(300),
        step: 0.005,
        searching_step: 0.03,
        step_growth: 1.3,
        searched_at_once: 0.2,
        min_step_time: Duration::from_secs(1),
        max_step_time: Duration::from_secs(30),
        plateau_steps: 20,
        least_time: Duration::from_millis(500),
        window: Duration::from_secs(60),
        late: Duration::from_millis(50),
        floor: 0.02,
    };
}
