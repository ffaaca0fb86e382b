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
use sqlx::SqliteConnection;

use crate::suite::engine::Daemon;

const ITSELF: &str = "SELECT pid, version, started_at, updated_at FROM daemon";
const SETTINGS: &str = "SELECT batch_size, linger_ms, retry_base_ms, retry_max_ms FROM daemon";
const LIMITS: &str =
    "SELECT requests_per_second, rate_ceiling, rate_why, concurrency, concurrency_ceiling, concurrency_why FROM daemon";
const LEARNT: &str =
    "SELECT learnt_rate, learnt_even, learnt_concurrency, learnt_at FROM daemon WHERE learnt_at IS NOT NULL";

pub async fn daemon(conn: &mut SqliteConnection) -> Option<Daemon> {
    let row = sqlx::query_as(ITSELF).fetch_optional(&mut *conn).await.unwrap();
    let (pid, version, started_at, updated_at): (u32, String, i64, i64) = row?;
    let settings = in_effect(conn).await;
    Some(Daemon { pid, version, started_at: Timestamp(started_at), settings, updated_at: Timestamp(updated_at) })
}

async fn in_effect(conn: &mut SqliteConnection) -> InEffect {
    let number = |number: u32| usize::try_from(number).unwrap();
    let settings: (u8, u32, u32, u32) = sqlx::query_as(SETTINGS).fetch_one(&mut *conn).await.unwrap();
    let [linger, base, max] = [settings.1, settings.2, settings.3].map(|ms| Duration::from_millis(ms.into()));
    let limits: (f64, f64, String, u32, u32, String) = sqlx::query_as(LIMITS).fetch_one(&mut *conn).await.unwrap();
    let learnt: Option<(Option<f64>, bool, Option<u32>, i64)> =
        sqlx::query_as(LEARNT).fetch_optional(&mut *conn).await.unwrap();
    InEffect {
        requests_per_second: limits.0,
        rate_ceiling: limits.1,
        rate_reason: RateReason::parse(&limits.2).unwrap(),
        concurrency: number(limits.3),
        concurrency_ceiling: number(limits.4),
        concurrency_reason: ConcurrencyReason::parse(&limits.5).unwrap(),
        batch_size: settings.0,
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
