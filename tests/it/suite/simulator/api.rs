//! The simulator's API: how it answers a call, and what it remembers.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use audio_cache_sweeper::{
    api::Reply,
    model::{
        clock::Timestamp,
        deletion::Kind,
        envelope::Envelope,
        outcome::{Answer, Cause, Fault, RetryAfter},
    },
};
use tokio::sync::oneshot;
use uuid::Uuid;

/// A request with an entry whose ID begins so is answered with a 400.
pub const NOT_A_NUMBER: &str = "not-a-number-";

/// How one call is answered, and whether its entries are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Deleted, and reported correctly.
    Ok,
    /// Some entries are deleted, and that is reported correctly.
    Partial,
    /// Deleted, and some of the IDs are in neither list.
    Silent,
    /// Deleted, and some of the IDs are in both lists.
    Contradictory,
    /// Deleted, and reported correctly, with IDs that were not in the request.
    Strangers,
    /// Not deleted; this status.
    Status(u16),
    /// Not deleted; this status (429 or 503), with a `Retry-After` of this many seconds.
    Throttled(u16, u64),
    /// No answer until the request times out; deleted if true.
    Hang(bool),
    /// The connection is reset; deleted if true.
    Reset(bool),
    /// Deleted; the answer is no JSON.
    Garbage,
    /// The request could not be sent.
    Unreachable,
    /// Not deleted; this fault.
    Fault(Fault),
    /// Not deleted; a 200 that lists all IDs as failed.
    AllFailed,
    /// Not deleted; a 200 with two empty lists.
    Neither,
    /// Not deleted; a 200 with an ID that was not in the request.
    OnlyStrangers,
}

/// The two lists of a 200.
#[derive(Debug, Default)]
pub struct Told {
    pub deleted: BTreeSet<String>,
    pub failed: BTreeSet<String>,
}

#[derive(Debug)]
pub struct Call {
    pub id: Uuid,
    pub agent: String,
    pub entries: Vec<String>,
    pub kind: Kind,
    /// Its number among all calls.
    pub number: usize,
    pub answer: oneshot::Sender<Reply>,
}

#[derive(Debug)]
pub struct World {
    /// Entries that are gone.
    pub gone: BTreeSet<(String, String)>,
    /// Unanswered calls.
    pub open: Vec<Call>,
    /// The lists of all 200s.
    pub told: HashMap<Uuid, Told>,
    /// Single-entry DELETEs whose 404 proves that the entry is absent: the agent was answered a bulk delete before, and the 404 is
    /// the API's own, or the API has answered a single-entry DELETE of this agent with a 200. Both since the daemon started.
    pub absent: BTreeSet<Uuid>,
    /// Agents with a bulk delete that was answered since the daemon started.
    pub known: BTreeSet<String>,
    /// Agents with a single-entry DELETE that was answered since then.
    pub known_singly: BTreeSet<String>,
    /// When a hold on everything was last probed before its end. The key is its cause and its beginning.
    pub early: HashMap<(Cause, Timestamp), Timestamp>,
    /// Violations that were found.
    pub wrong: Vec<String>,
    pub calls: usize,
    /// All calls: time, agent and IDs.
    pub log: Vec<(Duration, String, Vec<String>)>,
    /// How many IDs all calls had.
    pub ids: usize,
    /// Permits left by an independent token bucket, and when they were counted.
    pub tokens: f64,
    pub counted: Duration,
    /// By how many milliseconds the wall clock was ahead of elapsed time, at each of the last calls and answers.
    pub ahead: VecDeque<i64>,
}

/// The API's own error about a single-entry DELETE. The API's errors about bulk deletes are not known, so those get a bare
/// status.
fn said(call: &Call, status: u16, code: &str) -> Reply {
    let envelope = (call.kind == Kind::Single).then(|| Envelope {
        is_current: true,
        code: code.to_owned(),
        message: None,
        error_id: Some(call.id.to_string()),
    });
    Reply { envelope, ..fault(Fault::Status { status, retry_after: None }) }
}

/// A 200 with these lists.
fn listed(deleted: Vec<String>, failed: Vec<String>) -> Reply {
    Reply { result: Ok(Answer { deleted, failed }), status: Some(200), ..Reply::unheard(Fault::Lost, "") }
}

fn fault(fault: Fault) -> Reply {
    let status = match fault {
        Fault::Status { status, .. } => Some(status),
        Fault::Garbled => Some(200),
        Fault::Lost | Fault::Unreachable | Fault::Untrusted => None,
    };
    Reply { status, ..Reply::unheard(fault, "as drawn") }
}

impl World {
    /// Nothing is gone yet, and a burst of permits is left.
    pub fn new(burst: u32) -> Self {
        Self {
            gone: BTreeSet::new(),
            open: Vec::new(),
            told: HashMap::new(),
            absent: BTreeSet::new(),
            known: BTreeSet::new(),
            known_singly: BTreeSet::new(),
            early: HashMap::new(),
            wrong: Vec::new(),
            calls: 0,
            log: Vec::new(),
            ids: 0,
            tokens: f64::from(burst),
            counted: Duration::ZERO,
            ahead: VecDeque::new(),
        }
    }

    /// The reply to a call. A `Retry-After` date counts from `now`.
    pub fn reply(&mut self, call: &Call, mood: Mood, now: Timestamp, rng: &mut fastrand::Rng) -> Reply {
        let rejected = call.entries.iter().any(|entry| entry.starts_with(NOT_A_NUMBER));
        let reply = match mood {
            Mood::Status(status) => fault(Fault::Status { status, retry_after: None }),
            Mood::Throttled(status, seconds) => {
                let retry_after = match rng.u8(..3) {
                    0 => None,
                    1 => Some(RetryAfter::Seconds(seconds)),
                    _ => Some(RetryAfter::At(Timestamp(now.0 + i64::try_from(seconds).unwrap() * 1_000))),
                };
                fault(Fault::Status { status, retry_after })
            }
            Mood::Fault(given) => fault(given),
            Mood::AllFailed => listed(Vec::new(), call.entries.clone()),
            Mood::Neither if call.kind == Kind::Bulk => listed(Vec::new(), Vec::new()),
            Mood::OnlyStrangers if call.kind == Kind::Bulk => listed(vec!["987654321".to_owned()], Vec::new()),
            Mood::Neither | Mood::OnlyStrangers => fault(Fault::Garbled),
            Mood::Unreachable => fault(Fault::Unreachable),
            Mood::Reset(false) | Mood::Hang(false) => fault(Fault::Lost),
            _ if rejected => said(call, 400, "INVALID_ID"),
            // A single-entry DELETE of a missing entry is answered with a 404.
            Mood::Ok | Mood::Strangers if call.kind == Kind::Single && self.has_lost(call) => {
                said(call, 404, "ENTRY_NOT_FOUND")
            }
            Mood::Silent | Mood::Contradictory if call.kind == Kind::Single => {
                self.perform(&call.agent, &call.entries);
                fault(Fault::Garbled)
            }
            Mood::Ok | Mood::Partial | Mood::Silent | Mood::Contradictory | Mood::Strangers => {
                self.tell(call, mood, rng)
            }
            Mood::Reset(true) | Mood::Hang(true) | Mood::Garbage => {
                self.perform(&call.agent, &call.entries);
                fault(if mood == Mood::Garbage { Fault::Garbled } else { Fault::Lost })
            }
        };
        Reply { remote_ids: reply.status.iter().map(|_| call.id.to_string()).collect(), ..reply }
    }

    /// Remembers what this reply, or a later one, proves.
    pub fn remember(&mut self, call: &Call, reply: &Reply) {
        let known = if call.kind == Kind::Single { &mut self.known_singly } else { &mut self.known };
        if reply.result.is_ok() {
            known.insert(call.agent.clone());
        }
        let is_proven = reply.envelope.is_some() || self.known_singly.contains(&call.agent);
        if call.kind == Kind::Single && reply.status == Some(404) && is_proven && self.known.contains(&call.agent) {
            self.absent.insert(call.id);
        }
    }

    /// Deletes entries. For each: whether it was there.
    pub fn perform(&mut self, agent: &str, entries: &[String]) -> Vec<bool> {
        entries.iter().map(|entry| self.gone.insert((agent.to_owned(), entry.clone()))).collect()
    }

    fn has_lost(&self, call: &Call) -> bool {
        call.entries.iter().any(|entry| self.gone.contains(&(call.agent.clone(), entry.clone())))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all other moods tell the truth")]
    fn tell(&mut self, call: &Call, mood: Mood, rng: &mut fastrand::Rng) -> Reply {
        let mut told = Told::default();
        let spared: Vec<String> =
            call.entries.iter().filter(|_| mood == Mood::Partial && rng.bool()).cloned().collect();
        let wanted: Vec<String> = call.entries.iter().filter(|entry| !spared.contains(entry)).cloned().collect();
        let done = self.perform(&call.agent, &wanted);
        for (entry, done) in wanted.into_iter().zip(done) {
            match mood {
                Mood::Silent if rng.bool() => {}
                Mood::Contradictory if rng.bool() => {
                    told.deleted.insert(entry.clone());
                    told.failed.insert(entry);
                }
                _ if done => {
                    told.deleted.insert(entry);
                }
                _ => {
                    told.failed.insert(entry);
                }
            }
        }
        told.failed.extend(spared);
        if mood == Mood::Strangers && call.kind == Kind::Bulk {
            // They may be in the queue, but they are not in this call.
            told.deleted.extend((0..5).map(|_| rng.u32(1..40).to_string()).filter(|id| !call.entries.contains(id)));
        }
        let answer =
            Answer { deleted: told.deleted.iter().cloned().collect(), failed: told.failed.iter().cloned().collect() };
        self.told.insert(call.id, told);
        listed(answer.deleted, answer.failed)
    }
}
