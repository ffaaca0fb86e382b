//! The start after a crash.

use tracing::warn;

use super::Totals;
use crate::{
    model::{
        clock::{Clock, Timestamp},
        judge::{Heard, Policy, Sent, Standing, judge},
        outcome::Fault,
    },
    pace::Pace,
    queue::{
        Orphan, Settlement,
        sqlite::{Store, StoreError},
    },
    watch::telemetry::event,
};

/// Settles what a daemon before us left unanswered: sent, outcome unknown. And says that we are here, with our `rate`.
pub(super) async fn recover(
    store: &mut Store,
    policy: &Policy,
    rate: f64,
    now: Timestamp,
    rng: &mut fastrand::Rng,
) -> Result<Totals, StoreError> {
    let orphans = store.orphans().await?;
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
            // Whatever was the reason, it says nothing about the API: the hold that this might ask for is left out.
            rows: batch.map_or_else(Vec::new, |batch| {
                let sent = Sent { request, batch: &batch, correlation_id: "" };
                let heard = Heard { result: &Err(Fault::Lost), envelope: None };
                // It counts whatever others came to: a row whose request ends the daemon every time must end.
                let standing = Standing { is_orphan: true, ..Standing::default() };
                judge(sent, heard, &standing, policy, now, rng).rows
            }),
            is_whole: false,
        })
        .collect();
    let mut write = store.write().await?;
    write.settle(settlements.iter()).await?;
    write.introduce(rate, now).await?;
    write.commit().await?;
    if requests == 0 {
        return Ok(totals);
    }
    settlements.iter().for_each(|settlement| totals.add(settlement));
    let Totals { retried, dead, .. } = totals;
    warn!(event = event::RECOVERED, requests, retried, dead, "requests without an answer were settled as lost");
    Ok(totals)
}

/// The rate goes on from what was sent before this start: a restart in a loop must not send a burst each time.
pub(super) async fn remember_what_was_sent(
    store: &mut Store,
    pace: &mut Pace,
    clock: &Clock,
) -> Result<(), StoreError> {
    let (now, (back, most)) = (clock.now(), pace.permits.looks_back());
    let sent = store.sent_since(now.minus(back), most, now).await?;
    let ago: Vec<_> = sent.into_iter().map(|at| now.since(at)).collect();
    pace.permits.sent_before(&ago, clock.elapsed());
    Ok(())
}
