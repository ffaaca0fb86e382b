//! The daemon's row: the settings and limits in effect, and what was learnt about the API's limits.

use std::time::Duration;

use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::settle::Query;
use crate::{
    model::{
        backoff::Backoff,
        clock::Timestamp,
        limits::{ConcurrencyReason, Learnt, RateReason},
    },
    queue::InEffect,
};

/// $1 to $14 the settings; $15 now; $16 process; $17 version
const WRITE_DAEMON: &str = "
INSERT INTO daemon (requests_per_second, rate_ceiling, rate_why, concurrency, concurrency_ceiling, concurrency_why, batch_size,
    linger_ms, retry_base_ms, retry_max_ms, learnt_rate, learnt_even, learnt_concurrency, learnt_at,
    started_at, updated_at, pid, version, epoch)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, $16, $17, (SELECT epoch FROM leadership))
ON CONFLICT (one) DO UPDATE SET
    requests_per_second = excluded.requests_per_second, rate_ceiling = excluded.rate_ceiling, rate_why = excluded.rate_why,
    concurrency = excluded.concurrency, concurrency_ceiling = excluded.concurrency_ceiling,
    concurrency_why = excluded.concurrency_why, batch_size = excluded.batch_size, linger_ms = excluded.linger_ms,
    retry_base_ms = excluded.retry_base_ms, retry_max_ms = excluded.retry_max_ms, learnt_rate = excluded.learnt_rate,
    learnt_even = excluded.learnt_even, learnt_concurrency = excluded.learnt_concurrency, learnt_at = excluded.learnt_at,
    started_at = excluded.started_at, updated_at = excluded.updated_at, pid = excluded.pid, version = excluded.version,
    epoch = excluded.epoch";

const LEARNT: &str = "SELECT learnt_rate, learnt_even, learnt_concurrency, learnt_at FROM daemon";

/// Binds 14 parameters, which are all NULL if there are no settings.
pub(super) fn bind_settings<'q>(query: Query<'q>, settings: Option<&InEffect>) -> Query<'q> {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let learnt = settings.and_then(|settings| settings.learnt);
    let query = query
        .bind(settings.map(|settings| settings.requests_per_second))
        .bind(settings.map(|settings| settings.rate_ceiling))
        .bind(settings.map(|settings| settings.rate_reason.as_str()))
        .bind(settings.map(|settings| number(settings.concurrency)))
        .bind(settings.map(|settings| number(settings.concurrency_ceiling)))
        .bind(settings.map(|settings| settings.concurrency_reason.as_str()))
        .bind(settings.map(|settings| i16::from(settings.batch_size)))
        .bind(settings.map(|settings| ms(settings.linger)))
        .bind(settings.map(|settings| ms(settings.retry.base())))
        .bind(settings.map(|settings| ms(settings.retry.delay(u32::MAX))));
    query
        .bind(learnt.and_then(|learnt| learnt.rate))
        .bind(learnt.map(|learnt| learnt.is_even))
        .bind(learnt.and_then(|learnt| learnt.concurrency).map(number))
        .bind(learnt.map(|learnt| learnt.at.0))
}

/// The row of this process.
pub(super) fn introduction<'q>(settings: &InEffect, now: Timestamp) -> Query<'q> {
    let query = bind_settings(sqlx::query(WRITE_DAEMON), Some(settings)).bind(now.0);
    query.bind(i64::from(std::process::id())).bind(env!("CARGO_PKG_VERSION"))
}

/// What the last daemon has learnt about the API's limits.
pub(super) async fn learnt(conn: &mut PgConnection) -> Result<Option<Learnt>, sqlx::Error> {
    Ok(sqlx::query(LEARNT).fetch_optional(conn).await?.as_ref().and_then(learnt_in))
}

/// The settings in the daemon's row; `None` if its version writes other ones.
pub(super) fn in_effect(row: &PgRow) -> Option<InEffect> {
    let ms = |column| Some(Duration::from_millis(u64::try_from(row.try_get::<i64, _>(column).ok()?).ok()?));
    let number = |column| usize::try_from(row.try_get::<i64, _>(column).ok()?).ok();
    Some(InEffect {
        requests_per_second: row.try_get("requests_per_second").ok()?,
        rate_ceiling: row.try_get("rate_ceiling").ok()?,
        rate_reason: RateReason::parse(row.try_get("rate_why").ok()?)?,
        concurrency: number("concurrency")?,
        concurrency_ceiling: number("concurrency_ceiling")?,
        concurrency_reason: ConcurrencyReason::parse(row.try_get("concurrency_why").ok()?)?,
        batch_size: u8::try_from(row.try_get::<i16, _>("batch_size").ok()?).ok()?,
        linger: ms("linger_ms")?,
        retry: Backoff::new(ms("retry_base_ms")?, ms("retry_max_ms")?).ok()?,
        learnt: learnt_in(row),
    })
}

/// A value below zero counts as not learnt.
fn learnt_in(row: &PgRow) -> Option<Learnt> {
    let concurrency: Option<i64> = row.try_get("learnt_concurrency").ok()?;
    Some(Learnt {
        rate: row.try_get("learnt_rate").ok()?,
        is_even: row.try_get::<Option<bool>, _>("learnt_even").ok()?.unwrap_or(false),
        concurrency: concurrency.and_then(|number| usize::try_from(number).ok()),
        at: Timestamp(row.try_get::<Option<i64>, _>("learnt_at").ok()??),
    })
}
