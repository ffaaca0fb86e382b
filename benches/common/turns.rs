//! The worker's statements in turns of a fixed size, with answers that are made up at once.

use std::collections::{HashSet, VecDeque};

use audio_cache_sweeper::{
    model::{
        clock::{Clock, Timestamp},
        deletion::{Batch, Deletion, DeletionId, Lane},
        outcome::{Judged, Verdict},
    },
    queue::{Claim, Queue, Settlement, Tx},
};
use uuid::Uuid;

/// What a turn consists of. An engine that keeps its writes until the commit spends no time in the second step.
pub const STEPS: [&str; 5] = ["begin", "settle", "news", "look for rows", "claim and commit"];

/// What a drain took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turns {
    /// From the listing of the lanes to the last commit.
    pub seconds: f64,
    /// Seconds of each of [`STEPS`]: wall time, with the way to the database and back.
    pub steps: [f64; STEPS.len()],
    /// The number of transactions.
    pub turns: u32,
}

/// The batches that were claimed, with the answers to them.
type Claimed = VecDeque<(Lane, Settlement)>;

/// Empties the queue, with up to `concurrency` batches claimed at a time. Once that many are claimed, each transaction settles `turn`
/// of them and claims as many.
pub async fn drain<Q: Queue>(store: &mut Q, turn: usize, concurrency: usize) -> Turns {
    let clock = Clock::system();
    let mut lanes: VecDeque<Lane> = store.lanes().await.unwrap().into_iter().map(|(lane, _)| lane).collect();
    let mut claimed = Claimed::new();
    let mut taken = Turns::default();
    let mut begun = clock.elapsed();
    let mut ended = |step: usize, taken: &mut Turns| {
        let now = clock.elapsed();
        taken.steps[step] += (now - begun).as_secs_f64();
        begun = now;
    };
    while !(lanes.is_empty() && claimed.is_empty()) {
        let now = clock.now();
        store.check_owner().unwrap();
        let full = claimed.len() >= concurrency || lanes.is_empty();
        let settled: Vec<_> = claimed.drain(..if full { turn.min(claimed.len()) } else { 0 }).collect();
        let mut write = store.begin().await.unwrap();
        ended(0, &mut taken);
        write.settle(settled.iter().map(|(_, settlement)| settlement)).await.unwrap();
        ended(1, &mut taken);
        assert!(!write.news().await.unwrap());
        ended(2, &mut taken);
        let claims = look(&mut write, &mut lanes, &claimed, concurrency, now).await;
        ended(3, &mut taken);
        write.commit(&claims, None, now).await.unwrap();
        ended(4, &mut taken);
        taken.turns += 1;
        claimed.extend(claims.iter().map(|claim| (claim.batch.lane().clone(), answered(claim, now))));
    }
    taken.seconds = clock.elapsed().as_secs_f64();
    taken
}

/// Fills what is free of `concurrency` with batches of the lanes that come next.
async fn look(
    write: &mut impl Tx,
    lanes: &mut VecDeque<Lane>,
    claimed: &Claimed,
    concurrency: usize,
    now: Timestamp,
) -> Vec<Claim> {
    let room = concurrency - claimed.len();
    let looked_at: Vec<Lane> = lanes.drain(..room.min(lanes.len())).collect();
    let mut claims = Vec::new();
    if looked_at.is_empty() {
        return claims;
    }
    let most = room.div_ceil(looked_at.len()) * 20;
    let of_these: HashSet<&Lane> = looked_at.iter().collect();
    let sent = claimed.iter().filter(|(lane, _)| of_these.contains(lane));
    let sent: Vec<DeletionId> = sent.flat_map(|(_, sent)| sent.rows.iter().map(|row| row.id)).collect();
    let looks = write.look(&looked_at, most, &sent, false, now).await.unwrap();
    for (lane, look) in looked_at.into_iter().zip(looks) {
        let more = look.due.len() == most;
        let mut rows: Vec<Deletion> = look.due.into_iter().map(|row| row.deletion).collect();
        while !rows.is_empty() && claims.len() < room {
            let rest = rows.split_off(rows.len().min(20));
            let batch = Batch::new(lane.clone(), rows).unwrap();
            let (request, correlation_id) = (write.next_request_id(), Uuid::nil());
            claims.push(Claim { request, correlation_id, batch });
            rows = rest;
        }
        if more || !rows.is_empty() {
            lanes.push_back(lane);
        }
    }
    claims
}

/// Every row of the claim was deleted.
fn answered(claim: &Claim, now: Timestamp) -> Settlement {
    let deleted = |row: &Deletion| Judged {
        id: row.id,
        verdict: Verdict::Deleted,
        batch_max: None,
        asks: 0,
        maybe_done: false,
        first_fault: None,
        evidence: None,
    };
    Settlement {
        request: claim.request,
        answered_at: now,
        status: Some(200),
        fault: None,
        detail: None,
        remote_id: Some(claim.correlation_id.to_string()),
        rows: claim.batch.deletions().iter().map(deleted).collect(),
        is_whole: true,
    }
}
