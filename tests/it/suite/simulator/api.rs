//! How the API of the simulator answers, and what it remembers.

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

/// Entries that make a request a 400 are called so.
pub const NOT_A_NUMBER: &str = "not-a-number-";

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Done, and told truly.
    Ok,
    /// Some of it done, and told truly.
    Partial,
    /// Done, and some of it not mentioned.
    Silent,
    /// Done, and some of it listed twice over.
    Contradictory,
    /// Done, and told truly, with IDs that nobody sent.
    Strangers,
    /// Not done, and this status.
    Status(u16),
    /// Not done; 429, or 503, with a `Retry-After` of so many seconds.
    Throttled(u16, u64),
    /// Nothing is heard of it until the time is up; done or not.
    Hang(bool),
    /// The connection is cut; before it was done, or after.
    Reset(bool),
    /// Done, and then no JSON.
    Garbage,
    /// Not sent at all.
    Unreachable,
    /// Not done, and this.
    Fault(Fault),
    /// Not done, and a 200: all of it has failed.
    AllFailed,
    /// Not done, and a 200 with two empty lists.
    Neither,
    /// Not done, and a 200 with an ID that nobody sent.
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
    /// Calls that came in and are not answered.
    pub open: Vec<Call>,
    /// What was told in 200s.
    pub told: HashMap<Uuid, Told>,
    /// Calls about one entry that were answered with a 404 that proves something: in this life of the daemon's the agent had
    /// been answered a bulk delete before, and the API speaks itself, or has answered such a call with a 200 before.
    pub absent: BTreeSet<Uuid>,
    /// Agents that this life of the daemon's was answered a bulk delete of.
    pub known: BTreeSet<String>,
    /// The same, of a single-entry DELETE.
    pub known_singly: BTreeSet<String>,
    /// When a hold on everything was last probed before its end, by its cause and its beginning.
    pub early: HashMap<(Cause, Timestamp), Timestamp>,
    /// What must not have happened.
    pub wrong: Vec<String>,
    pub calls: usize,
    /// All calls: when they came in, and what they carried.
    pub log: Vec<(Duration, String, Vec<String>)>,
    /// IDs in all of them.
    pub ids: usize,
    /// An independent count of the permits that are left, and when it was made.
    pub tokens: f64,
    pub counted: Duration,
    /// Of the last calls and answers, by how much the wall clock was ahead of elapsed time.
    pub ahead: VecDeque<i64>,
}

/// An error of the API's own about the one entry of a call; what it says of several is not known, and so a plain status.
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

    /// What a call comes to. `now` is the time of whoever says when to come again.
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
            // An entry that is not there is told of by the status.
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

    /// What the daemon may conclude from this answer, or from a later one.
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

    /// Deletes; true for those entries that were there.
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
            // Among them entries that are in the queue, and were not in this call.
            told.deleted.extend((0..5).map(|_| rng.u32(1..40).to_string()).filter(|id| !call.entries.contains(id)));
        }
        let answer =
            Answer { deleted: told.deleted.iter().cloned().collect(), failed: told.failed.iter().cloned().collect() };
        self.told.insert(call.id, told);
        listed(answer.deleted, answer.failed)
    }
}
