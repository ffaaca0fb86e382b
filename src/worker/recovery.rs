//! The start: what an earlier daemon sent, and what it left unanswered.

use std::time::Duration;

use tracing::warn;

use super::{
    Settings, Totals, clocks,
    clocks::Clocks,
    log::{self, InvalidRows},
    schedule::in_effect,
};
use crate::{
    event,
    model::{
        clock::{Clock, Timestamp},
        judge::{Heard, Sent, Standing, judge},
        outcome::Fault,
    },
    pace::{Pace, RateLimit},
    queue::{InEffect, Orphan, Queue, QueueError as _, Remedy, Settlement, Tx as _},
};

/// Prepares the first turn: checks the clock, charges the rate limit for requests that an earlier daemon sent, goes on from the
/// limits that it has learnt, and settles its orphans.
pub(super) async fn begin<Q: Queue>(
    queue: &mut Q,
    pace: &mut Pace,
    settings: &Settings,
    clock: &Clock,
    rng: &mut fastrand::Rng,
) -> Result<(Clocks, Totals, InvalidRows), Q::Error> {
    let clocks = clocks::start(queue, settings, clock).await?;
    remember_what_was_sent(queue, pace, clock).await?;
    let learnt = queue.learnt().await?;
    let restored = learnt.map(|learnt| pace.restore(&learnt, clock.now(), clock.elapsed())).unwrap_or_default();
    let (in_effect, mut swept, mut invalid_rows) = (in_effect(pace, settings), 0, InvalidRows::default());
    loop {
        match recover(queue, settings, &in_effect, clock.now(), rng).await {
            // A row of an orphan cannot be read.
            Err(error) if error.remedy() == Remedy::Sweep => match sweep(queue, &mut invalid_rows, clock).await? {
                0 => return Err(error),
                dead => swept += dead,
            },
            recovered => {
                let mut totals = recovered?;
                totals.dead += swept;
                log::limits(&restored, pace.permits.limit().burst, true);
                return Ok((clocks, totals, invalid_rows));
            }
        }
    }
}

async fn sweep<Q: Queue>(queue: &mut Q, invalid_rows: &mut InvalidRows, clock: &Clock) -> Result<u64, Q::Error> {
    let mut dead = 0;
    loop {
        let step = queue.sweep(clock.now()).await?;
        if step.dead > 0 {
            invalid_rows.tell(&step);
        }
        dead += step.dead;
        if !step.more {
            return Ok(dead);
        }
    }
}

/// Settles the orphans as lost, and introduces this daemon with its settings.
async fn recover<Q: Queue>(
    queue: &mut Q,
    settings: &Settings,
    in_effect: &InEffect,
    now: Timestamp,
    rng: &mut fastrand::Rng,
) -> Result<Totals, Q::Error> {
    let orphans = queue.orphans().await?;
    // Whoever sent them may live, and wait for their answers for that long by its own clock.
    let not_before = if queue.was_shared() { now.plus(settings.request_timeout) } else { Timestamp::ZERO };
    let mut totals = Totals::default();
    let requests = orphans.len();
    let settlements: Vec<Settlement> = orphans
        .into_iter()
        .map(|Orphan { request, batch }| Settlement {
            request,
            answered_at: now,
            status: None,
            fault: Some(Fault::Lost.cause()),
            detail: Some("the daemon ended before the answer".to_owned()),
            remote_id: None,
            // The crash says nothing about the API: a hold that the judgement asks for is ignored.
            rows: batch.map_or_else(Vec::new, |batch| {
                let sent = Sent { request, batch: &batch, correlation_id: "" };
                let heard = Heard { result: &Err(Fault::Lost), envelope: None };
                // The attempt always counts: a row whose request ends the daemon every time must come to an end.
                let standing = Standing { is_orphan: true, ..Standing::default() };
                let rows = judge(sent, heard, &standing, &settings.policy, now, rng).rows;
                rows.into_iter().map(|row| row.not_before(not_before)).collect()
            }),
            is_whole: false,
        })
        .collect();
    let mut write = queue.begin().await?;
    write.settle(settlements.iter()).await?;
    write.introduce(in_effect, now).await?;
    write.commit(&[], None, now).await?;
    if requests == 0 {
        return Ok(totals);
    }
    settlements.iter().for_each(|settlement| totals.add(settlement));
    let Totals { retried, dead, .. } = totals;
    warn!(event = event::RECOVERED, requests, retried, dead, "requests without an answer were settled as lost");
    Ok(totals)
}

/// Charges the rate limit for requests that were sent before this start: a restart loop must not send a burst each time.
async fn remember_what_was_sent<Q: Queue>(queue: &mut Q, pace: &mut Pace, clock: &Clock) -> Result<(), Q::Error> {
    let limit = pace.permits.limit();
    let ago = if queue.was_shared() {
        // The times of another machine's clock cannot be compared with ours: as if a whole burst had just been sent.
        vec![Duration::ZERO; usize::try_from(limit.burst.get()).unwrap_or(usize::MAX)]
    } else {
        sent_lately(queue, limit, clock.now()).await?
    };
    pace.permits.sent_before(&ago, clock.elapsed());
    Ok(())
}

/// How long ago requests were sent, oldest first, as far back as `limit` depends on them.
pub(super) async fn sent_lately<Q: Queue>(
    queue: &mut Q,
    limit: RateLimit,
    now: Timestamp,
) -> Result<Vec<Duration>, Q::Error> {
    let (back, most) = limit.looks_back();
    let sent = queue.sent_since(now.minus(back), most, now).await?;
    Ok(sent.into_iter().map(|at| now.since(at)).collect())
}
