//! The limits that are measured.

use std::time::Duration;

use super::gateway::Limit;

/// The time that the stand-in for the API takes for each answer.
pub const LATENCY: Duration = Duration::from_millis(60);
/// How long a run goes on after its limit has changed.
pub const AFTER_CHANGE: Duration = Duration::from_secs(300);
/// Below this rate, answers are few, so a run takes [`SLOW_LENGTH`] at least.
const SLOW: f64 = 2.0;
const SLOW_LENGTH: Duration = Duration::from_secs(600);

/// A limit that nobody tells the daemon.
#[derive(Clone, Debug)]
pub struct Case {
    pub set: Set,
    pub name: String,
    pub limit: Limit,
    /// The requests per second that get through.
    pub allowed: f64,
    /// Whether it is a limit on concurrency, and not on the rate.
    pub is_concurrency: bool,
    /// The daemon's `delivery.concurrency`.
    pub concurrency: u32,
    /// The limit that it changes to, and the requests per second that get through then.
    pub change: Option<(Limit, f64)>,
}

/// Why a case is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// The daemon's constants were chosen with these limits in view.
    Tuned,
    /// The daemon's constants were chosen without these limits in view.
    Untuned,
    /// Limits that change while the daemon runs.
    Changed,
}

impl Set {
    /// The word that chooses the set.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tuned => "tuned",
            Self::Untuned => "untuned",
            Self::Changed => "changed",
        }
    }
}

impl Case {
    /// `limit_req` with a rate such as `10r/s`, and a `burst` such as `burst=5 nodelay`. `delay` names nginx's default.
    fn nginx(set: Set, rate: &'static str, burst: &str, allowed: f64) -> Self {
        let name = format!("nginx {rate} {}", if burst.is_empty() { "strict" } else { burst });
        let directives = format!("limit_req zone=rate {};", burst.trim_end_matches(" delay"));
        Self::new(set, name, Limit::Nginx { rate, directives }, allowed)
    }

    /// `limit_conn`: at most `most` requests at a time.
    fn nginx_concurrency(set: Set, most: u32) -> Self {
        let limit = Limit::Nginx { rate: "1000r/s", directives: format!("limit_conn connections {most};") };
        let allowed = f64::from(most) / LATENCY.as_secs_f64();
        let case = Self::new(set, format!("nginx limit_conn {most}"), limit, allowed);
        Self { is_concurrency: true, concurrency: 16, ..case }
    }

    fn haproxy(set: Set, requests: u32, seconds: u32) -> Self {
        let name = format!("haproxy {requests} per {seconds} s");
        Self::new(set, name, Limit::HaProxy { requests, seconds }, f64::from(requests) / f64::from(seconds))
    }

    fn new(set: Set, name: String, limit: Limit, allowed: f64) -> Self {
        Self { set, name, limit, allowed, is_concurrency: false, concurrency: 8, change: None }
    }

    /// A small bucket of nginx whose rate changes.
    fn changed(how: &str, (rate, allowed): (&'static str, f64), (to, then): (&'static str, f64)) -> Self {
        let bucket = |rate, allowed| Self::nginx(Set::Changed, rate, "burst=5 nodelay", allowed);
        let name = format!("{how}: nginx {rate} to {to}, burst=5 nodelay");
        Self { name, change: Some((bucket(to, then).limit, then)), ..bucket(rate, allowed) }
    }

    fn all() -> Vec<Self> {
        let both = Limit::Nginx {
            rate: "25r/s",
            directives: "limit_req zone=rate burst=10 nodelay; limit_conn connections 3;".to_owned(),
        };
        let both = Self::new(Set::Untuned, "nginx 25r/s burst=10 nodelay, limit_conn 3".to_owned(), both, 25.0);
        vec![
            Self::nginx(Set::Tuned, "10r/s", "", 10.0),
            Self::nginx(Set::Tuned, "60r/m", "", 1.0),
            Self::nginx(Set::Tuned, "10r/s", "burst=5 nodelay", 10.0),
            Self::nginx(Set::Tuned, "10r/s", "burst=20 nodelay", 10.0),
            Self::nginx(Set::Tuned, "10r/s", "burst=20 delay", 10.0),
            Self::nginx_concurrency(Set::Tuned, 4),
            Self::haproxy(Set::Tuned, 100, 10),
            Self::haproxy(Set::Tuned, 10, 1),
            Self::haproxy(Set::Tuned, 600, 60),
            Self::nginx(Set::Untuned, "7r/s", "burst=2 nodelay", 7.0),
            Self::haproxy(Set::Untuned, 37, 5),
            Self::nginx_concurrency(Set::Untuned, 2),
            Self { concurrency: 16, ..both },
            Self::changed("halved", ("10r/s", 10.0), ("5r/s", 5.0)),
            Self::changed("doubled", ("10r/s", 10.0), ("20r/s", 20.0)),
        ]
    }

    /// The cases that one of `words` chooses: the name of their set, or a part of their name. All, if there are no words.
    pub fn chosen(words: &[String]) -> Vec<Self> {
        let is_chosen =
            |case: &Self| words.iter().any(|word| word == case.set.name() || case.name.contains(word.as_str()));
        Self::all().into_iter().filter(|case| words.is_empty() || is_chosen(case)).collect()
    }

    /// How long the limit is measured before it changes. A slow one needs longer.
    pub fn length(&self, usual: Duration) -> Duration {
        if self.allowed < SLOW { usual.max(SLOW_LENGTH) } else { usual }
    }

    /// The rows that the daemon needs, so that it never runs dry.
    pub fn rows(&self, length: Duration) -> u32 {
        let later = self.change.as_ref().map_or(0.0, |(_, allowed)| allowed * AFTER_CHANGE.as_secs_f64());
        let requests = self.allowed * length.as_secs_f64() + later;
        (requests * 20.0 * 1.3) as u32 + 4_000
    }
}
