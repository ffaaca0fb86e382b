//! The limits in effect, and why they are what they are.

use crate::{
    cli::times::{plural, show_count},
    model::limits::{ConcurrencyReason, RateReason},
    queue::InEffect,
};

/// `at most 9.76 of 100 requests/s (found: the API throttled more)`
pub(super) fn rate(limits: &InEffect) -> String {
    let why = match limits.rate_reason {
        RateReason::Ceiling => "the ceiling",
        RateReason::Found => "found: the API throttled more",
        RateReason::Told => "told by the API's headers",
    };
    let ceiling = (limits.rate_ceiling * 1e3).round() / 1e3;
    let of = if limits.rate_reason == RateReason::Ceiling { String::new() } else { format!(" of {ceiling}") };
    format!("at most {:.2}{of} requests/s ({why})", limits.requests_per_second)
}

/// `at most 4 of 16 requests (the API throttles more)`
pub(super) fn concurrency(limits: &InEffect) -> String {
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
