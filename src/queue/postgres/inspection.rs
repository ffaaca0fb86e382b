//! What a leader looks at once a minute: the server's clock, transactions that keep the server from removing old rows, and the tables.

use std::time::Duration;

use sqlx::PgConnection;
use tracing::{debug, warn};

use super::{Store, errors::StoreError};
use crate::{event, model::clock::Timestamp};

/// A difference between two clocks that is worth a line.
const MOST_SKEW: Duration = Duration::from_secs(2);
/// A transaction that is open for this long is worth a line.
const LONG: Duration = Duration::from_secs(600);

const SERVER_TIME: &str = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// $1 seconds. The session that has seen the oldest rows, if it began its transaction so long ago: process, user, application, age.
/// What belongs to other users can be seen, but for the statement.
const OLDEST: &str = "
SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), floor(extract(epoch FROM clock_timestamp() - xact_start))::bigint
FROM pg_stat_activity
WHERE backend_xmin IS NOT NULL AND xact_start < clock_timestamp() - make_interval(secs => $1) AND pid <> pg_backend_pid()
ORDER BY age(backend_xmin) DESC LIMIT 1";

impl Store {
    /// Logs what an operator should know.
    pub(super) async fn inspect_server(&mut self) -> Result<(), StoreError> {
        let before = self.clock.now();
        let read = async |conn: &mut PgConnection| sqlx::query_scalar(SERVER_TIME).fetch_one(conn).await;
        let server: i64 = self.run_alone("read the server's clock", read).await?;
        if let Some(skew_ms) = skew(before, Timestamp(server), self.clock.now()) {
            warn!(
                event = event::CLOCK_SKEW,
                skew_ms,
                "the server's clock and this machine's differ: after a take-over, retries and the ends of holds come at other times"
            );
        }
        let long = LONG.as_secs_f64();
        let read = async |conn: &mut PgConnection| sqlx::query_as(OLDEST).bind(long).fetch_optional(conn).await;
        let oldest: Option<(i32, String, String, i64)> = self.run_alone("look for old transactions", read).await?;
        if let Some((pid, user, application, age_s)) = oldest {
            warn!(
                event = event::OLD_SNAPSHOT,
                pid,
                user,
                application,
                age_s,
                "a transaction that is open for long keeps the server from removing old rows, and the queue gets slower: end it"
            );
        }
        match self.watch_tables().await {
            // An object that is dropped while it is looked at. The next look does without it.
            Err(error) if !error.is_temporary() => {
                debug!(event = event::SCHEMA_MODIFIED, %error, "the tables could not be looked at")
            }
            looked => looked?,
        }
        self.keep_leadership().await
    }
}

/// By how many milliseconds the server's clock is ahead, if that is much. It was read between `before` and `after`.
fn skew(before: Timestamp, server: Timestamp, after: Timestamp) -> Option<i64> {
    let (ahead, behind) = (server.since(after), before.since(server));
    let ms = |by: Duration| i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    (ahead.max(behind) >= MOST_SKEW).then(|| ms(ahead) - ms(behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_what_the_way_to_the_server_does_not_explain() {
        let at = Timestamp;
        assert_eq!(skew(at(10_000), at(10_500), at(11_000)), None);
        assert_eq!(skew(at(10_000), at(12_999), at(11_000)), None);
        assert_eq!(skew(at(10_000), at(13_000), at(11_000)), Some(2_000));
        assert_eq!(skew(at(10_000), at(7_000), at(11_000)), Some(-3_000));
        assert_eq!(skew(at(0), at(i64::MAX), at(0)), Some(i64::MAX));
    }
}
