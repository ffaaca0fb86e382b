//! The limits in effect, and why they are what they are.

use super::figures::{plural, show_count};
use crate::{
    model::limits::{ConcurrencyReason, RateReason},
    queue::InEffect,
};

/// `at most 9.76 of 100 requests/s (found: the API throttled more)`
pub(crate) fn rate(limits: &InEffect) -> String {
    let why = match limits.rate_reason {
        RateReason::Ceiling => "the ceiling",
        RateReason::Found => "found: the API throttled more",
        RateReason::Told => "told by the API's headers",
        RateReason::Learnt => "found before the restart",
    };
    let ceiling = (limits.rate_ceiling * 1e3).round() / 1e3;
    let of = if limits.rate_reason == RateReason::Ceiling { String::new() } else { format!(" of {ceiling}") };
    format!("at most {:.2}{of} requests/s ({why})", limits.requests_per_second)
}

/// `at most 4 of 16 requests (the API throttles more)`
pub(crate) fn concurrency(limits: &InEffect) -> String {
    let why = match limits.concurrency_reason {
        ConcurrencyReason::Ceiling => "the ceiling",
        ConcurrencyReason::Throttled => "the API throttles more",
        ConcurrencyReason::Latency => "answers are slow",
    };
    let most = limits.concurrency as u64;
    match limits.concurrency_reason {
        ConcurrencyReason::Ceiling => format!("at most {} ({why})", plural(most, "request", "requests")),
        ConcurrencyReason::Throttled | ConcurrencyReason::Latency => {
            let ceiling = plural(limits.concurrency_ceiling as u64, "request", "requests");
            format!("at most {} of {ceiling} ({why})", show_count(most))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::backoff::Backoff;

    #[test]
    fn each_reason_is_told_and_the_ceiling_only_if_the_limit_is_below_it() {
        let second = Duration::from_secs(1);
        let at_ceiling = InEffect {
            requests_per_second: 0.1,
            rate_ceiling: 0.1,
            rate_reason: RateReason::Ceiling,
            concurrency: 1,
            concurrency_ceiling: 1,
            concurrency_reason: ConcurrencyReason::Ceiling,
            batch_size: 20,
            linger: second,
            retry: Backoff::new(second, second).unwrap(),
            learnt: None,
        };
        assert_eq!(rate(&at_ceiling), "at most 0.10 requests/s (the ceiling)");
        assert_eq!(concurrency(&at_ceiling), "at most 1 request (the ceiling)");
        for (reason, why) in [
            (RateReason::Found, "found: the API throttled more"),
            (RateReason::Told, "told by the API's headers"),
            (RateReason::Learnt, "found before the restart"),
        ] {
            let lower =
                InEffect { requests_per_second: 9.756, rate_ceiling: 1e3 / 3.0, rate_reason: reason, ..at_ceiling };
            assert_eq!(rate(&lower), format!("at most 9.76 of 333.333 requests/s ({why})"));
        }
        for (reason, why) in
            [(ConcurrencyReason::Throttled, "the API throttles more"), (ConcurrencyReason::Latency, "answers are slow")]
        {
            let lower =
                InEffect { concurrency: 4, concurrency_ceiling: 1_600, concurrency_reason: reason, ..at_ceiling };
            assert_eq!(concurrency(&lower), format!("at most 4 of 1,600 requests ({why})"));
        }
    }
}
