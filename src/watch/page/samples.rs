//! The last hours, in memory: one sample every half minute, the oldest of which are forgotten.

use std::{collections::VecDeque, time::Duration};

/// The time between two samples.
pub(in crate::watch) const INTERVAL: Duration = Duration::from_secs(30);
/// Samples that are kept: those of six hours.
const MOST: usize = 720;
/// Points that a chart shows at most. More than that is noise on a small screen.
const MOST_POINTS: usize = 120;

/// What one sample saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// When it was taken, in elapsed time: the wall clock may jump.
    pub(super) at: Duration,
    /// Rows that this process has deleted since its start.
    pub(super) deleted: u64,
    /// Open rows; `None`: the database could not be read.
    pub(super) pending: Option<u64>,
}

/// A point of a chart. It covers several samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// How long ago it ended.
    pub(super) ago: Duration,
    /// The highest number of open rows.
    pub(super) pending: Option<u64>,
    /// Rows deleted per minute since the point before; `None` for the first one.
    pub(super) deleted_per_minute: Option<f64>,
}

/// The samples, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(VecDeque<Sample>);

impl Samples {
    /// Takes one in.
    pub(super) fn take(&mut self, sample: Sample) {
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// The points of a chart, the oldest first.
    pub(super) fn points(&self, now: Duration) -> Vec<Point> {
        let stride = self.0.len().div_ceil(MOST_POINTS).max(1);
        let samples: Vec<Sample> = self.0.iter().copied().collect();
        // Counted from the newest one, so that each point keeps its samples while others come.
        let groups: Vec<&[Sample]> = samples.rchunks(stride).rev().collect();
        let mut before: Option<Sample> = None;
        let mut points = Vec::with_capacity(groups.len());
        for group in groups {
            let Some(last) = group.last() else { continue };
            let since = before.replace(*last);
            let per_minute = since.and_then(|since| {
                let minutes = last.at.saturating_sub(since.at).as_secs_f64() / 60.0;
                (minutes > 0.0).then(|| last.deleted.saturating_sub(since.deleted) as f64 / minutes)
            });
            let pending = group.iter().filter_map(|sample| sample.pending).max();
            points.push(Point { ago: now.saturating_sub(last.at), pending, deleted_per_minute: per_minute });
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: u64) -> Sample {
        Sample { at: INTERVAL * u32::try_from(number).unwrap(), deleted: number * 10, pending: Some(number) }
    }

    #[test]
    fn the_oldest_samples_are_forgotten_and_a_chart_has_few_points() {
        let mut samples = Samples::default();
        assert_eq!(samples.points(Duration::ZERO), []);
        for number in 0..5_000 {
            samples.take(sample(number));
            assert!(samples.points(INTERVAL * 5_000).len() <= MOST_POINTS);
        }
        assert_eq!(samples.0.len(), MOST);
        let points = samples.points(INTERVAL * 4_999);
        assert_eq!(points.last().unwrap().ago, Duration::ZERO);
        assert_eq!(points.last().unwrap().pending, Some(4_999));
        assert!(points.iter().skip(1).all(|point| point.deleted_per_minute == Some(20.0)), "{points:?}");
        assert!(points.windows(2).all(|pair| pair[0].ago > pair[1].ago));
        assert!(points[0].ago < Duration::from_secs(6 * 60 * 60));
    }

    #[test]
    fn a_sample_without_the_database_is_a_gap_and_a_new_count_is_no_fall() {
        let mut samples = Samples::default();
        samples.take(sample(1));
        samples.take(Sample { pending: None, ..sample(2) });
        samples.take(Sample { deleted: 0, ..sample(3) });
        let points = samples.points(INTERVAL * 3);
        assert_eq!(points.iter().map(|point| point.pending).collect::<Vec<_>>(), [Some(1), None, Some(3)]);
        let pace: Vec<_> = points.iter().map(|point| point.deleted_per_minute).collect();
        assert_eq!(pace, [None, Some(20.0), Some(0.0)]);
    }
}
