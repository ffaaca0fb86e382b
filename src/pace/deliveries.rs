//! When requests were delivered, and the rate that a limit allows at least, as that shows.

use std::{collections::VecDeque, time::Duration};

/// The number of points in time that are kept. With a point every half second, they reach back 150 s, which is longer than the
/// shortest plateau. At a low rate, each delivery is a point, and they reach back further.
const MOST: usize = 300;
/// The least number of deliveries over which a rate is measured.
const FEWEST: u64 = 3;

/// The deliveries, counted at points in time.
#[derive(Clone, Debug)]
pub struct Deliveries {
    /// The least time between two points.
    every: Duration,
    /// Points in time of sending, and the number of deliveries up to each.
    points: VecDeque<(Duration, u64)>,
    count: u64,
}

impl Deliveries {
    /// None so far. Rates are measured over `every` or longer.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self { every, points: VecDeque::new(), count: 0 }
    }

    /// Counts a delivery of a request that left at `at`, in time of sending.
    pub fn add(&mut self, at: Duration) {
        self.count = self.count.saturating_add(1);
        if self.points.back().is_none_or(|(last, _)| at >= *last + self.every) {
            self.points.push_back((at, self.count));
            if self.points.len() > MOST {
                self.points.pop_front();
            }
        }
    }

    /// The number of all deliveries.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first point in time that is known.
    #[must_use]
    pub fn since(&self) -> Option<Duration> {
        self.points.front().map(|(at, _)| *at)
    }

    /// The rate that a limit allows at least, in requests per second, if it lets `at_once` requests through at once. In any time up
    /// to `until`, it lets through the rate times the time and these.
    #[must_use]
    pub fn allowed(&self, at_once: f64, until: Duration) -> f64 {
        let rate = |(from, before): &(Duration, u64)| {
            let (over, count) = (until.saturating_sub(*from), self.count - before);
            let is_long = over >= self.every && count >= FEWEST;
            if is_long { (count as f64 - at_once) / over.as_secs_f64() } else { 0.0 }
        };
        self.points.iter().map(rate).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn the_best_time_counts_and_a_burst_does_not() {
        let mut deliveries = Deliveries::new(Duration::from_millis(500));
        assert_eq!(deliveries.allowed(0.0, seconds(9)), 0.0, "nothing is known");
        // Ten seconds at 2/s, and ten at 4/s.
        (0..20).for_each(|n| deliveries.add(Duration::from_millis(500 * n)));
        (0..40).for_each(|n| deliveries.add(seconds(10) + Duration::from_millis(250 * n)));
        assert!((deliveries.allowed(0.0, seconds(20)) - 4.0).abs() < 0.3);
        // If ten came at once, the second half shows three a second.
        assert!((deliveries.allowed(10.0, seconds(20)) - 3.0).abs() < 0.2);
        assert_eq!((deliveries.count(), deliveries.since()), (60, Some(Duration::ZERO)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut deliveries = Deliveries::new(seconds(1));
        (0..10_000).for_each(|n| deliveries.add(seconds(n)));
        assert_eq!((deliveries.points.len(), deliveries.since()), (MOST, Some(seconds(9_700))));
    }
}
