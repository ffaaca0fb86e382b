//! The daemon's row, read column by column.

use std::time::Duration;

use audio_cache_sweeper::{
    model::{
        backoff::Backoff,
        clock::Timestamp,
        limits::{ConcurrencyReason, Learnt, RateReason},
    },
    queue::InEffect,
};
use sqlx::PgConnection;

use crate::suite::engine::Daemon;

const ITSELF: &str = "SELECT pid, version, started_at, updated_at FROM daemon";
const SETTINGS: &str = "SELECT batch_size, linger_ms, retry_base_ms, retry_max_ms FROM daemon";
const LIMITS: &str =
    "SELECT requests_per_second, rate_ceiling, rate_why, concurrency, concurrency_ceiling, concurrency_why FROM daemon";
const LEARNT: &str =
    "SELECT learnt_rate, learnt_even, learnt_concurrency, learnt_at FROM daemon WHERE learnt_at IS NOT NULL";

pub async fn daemon(conn: &mut PgConnection) -> Option<Daemon> {
    let row = sqlx::query_as(ITSELF).fetch_optional(&mut *conn).await.unwrap();
    let (pid, version, started_at, updated_at): (i64, String, i64, i64) = row?;
    let settings = in_effect(conn).await;
    Some(Daemon {
        pid: u32::try_from(pid).unwrap(),
        version,
        started_at: Timestamp(started_at),
        settings,
        updated_at: Timestamp(updated_at),
    })
}

async fn in_effect(conn: &mut PgConnection) -> InEffect {
    let number = |number: i64| usize::try_from(number).unwrap();
    let settings: (i16, i64, i64, i64) = sqlx::query_as(SETTINGS).fetch_one(&mut *conn).await.unwrap();
    let [linger, base, max] = [settings.1, settings.2, settings.3].map(|ms| Duration::from_millis(ms.unsigned_abs()));
    let limits: (f64, f64, String, i64, i64, String) = sqlx::query_as(LIMITS).fetch_one(&mut *conn).await.unwrap();
    let learnt: Option<(Option<f64>, bool, Option<i64>, i64)> =
        sqlx::query_as(LEARNT).fetch_optional(&mut *conn).await.unwrap();
    InEffect {
        requests_per_second: limits.0,
        rate_ceiling: limits.1,
        rate_reason: RateReason::parse(&limits.2).unwrap(),
        concurrency: number(limits.3),
        concurrency_ceiling: number(limits.4),
        concurrency_reason: ConcurrencyReason::parse(&limits.5).unwrap(),
        batch_size: u8::try_from(settings.0).unwrap(),
        linger,
        retry: Backoff::new(base, max).unwrap(),
        learnt: learnt.map(|(rate, is_even, concurrency, at)| Learnt {
            rate,
            is_even,
            concurrency: concurrency.map(number),
            at: Timestamp(at),
        }),
    }
}
