//! Empties a SQLite queue of audio-cache deletions through PolyAI's bulk-delete API.
//!
//! # The map, from the core outwards
//!
//! | room | what it is | |
//! | --- | --- | --- |
//! | [`event`] | the names of the log events | pure |
//! | [`printable`] | text from outside, made fit for a terminal and a log | pure |
//! | [`small_file`] | reading a file that the configuration names, and that may be anything | |
//! | [`durations`] | durations as people write and read them | pure |
//! | [`model`] | the nouns, time, backoff, holds as they are kept, what a call came to, and what follows from it: the decision table [`model::judge`] | pure |
//! | [`pace`] | may a request go out: permits, the rate found out, the holds, how many at a time | no I/O |
//! | [`queue`] | the seam: what the engine that keeps the queue must do for the worker, and the values that cross | pure |
//! | [`queue::sqlite`] | the engine, and all the SQL there is | |
//! | [`api`] | one request and its reply; the list of a remote cache; the key | |
//! | [`watch`] | logs, metrics, health, HTTP, the service manager | |
//! | [`worker`] | the loop: settle, refresh, schedule, commit, send | |
//! | [`config`] | configuration, as written and as meant | |
//! | [`sandbox`] | a stand-in for the API | |
//! | [`cli`] | arguments, exit codes, signals; what an operator does: a file a command | |
//!
//! Imports run one way: `main → cli → {config, sandbox} → worker → watch → {queue, api, pace} → model → {event, printable,
//! small_file, durations}`. A test holds that, and that only an engine knows SQL.
//!
//! # The words
//!
//! | word | meaning |
//! | --- | --- |
//! | deletion | one row: one cached entry of one agent that somebody wants gone |
//! | lane | the rows that may share a request: same priority, agent and `batch_max` (0: each gets a single-entry DELETE) |
//! | batch | 1 to 20 rows of a lane, with distinct IDs, claimed together |
//! | claim | a row in `requests` with the batch's manifest, committed before the call |
//! | in flight | named by the manifest of a request that has no answer yet |
//! | answer, fault | what a call came to: the two lists of a 200, unjudged; or anything else |
//! | verdict | deleted, absent, dead; *retry*: comes back, attempt counted; *release*: comes back, attempt not counted |
//! | settled | of an answer: a row was deleted, or the API itself spoke of one row |
//! | got through | something was settled for the agent since a row's last request; for anybody, if the agent has no other work |
//! | evidence | what a verdict against a row rests on: see the rule below |
//! | streak | faults in a row about different rows, with nothing settled in between |
//! | hold | a pause of one agent or of everything, until a time, for a cause |
//! | probe | the one request that goes out when a hold's time is over, to see whether its cause is |
//! | turn | one pass of the loop: settle what has come back, claim what may go out, send it |
//!
//! # The life of a row
//!
//! A producer inserts it: *pending*, due at once. The worker sees by `PRAGMA data_version` that somebody wrote, and
//! lists the lanes. When there is room, the lane whose turn it is is looked at. Its due rows, the oldest first, become
//! batches. A batch takes a permit, is claimed, and is sent after the claim is committed; the permit counts from then.
//! What comes back is *judged*: each row gets one verdict. The next transaction *settles* it, together with the next
//! claims. A row that comes back keeps its turn among the others of its agent. A row that is deleted, absent or dead is
//! pruned when it is old.
//!
//! A request that fails as a whole may fail because of one ID in it, or because nothing gets through. If others get
//! through, it counts as an attempt, and is *split* when it fails again, until each row has failed by itself or got
//! through. If nothing gets through, it is a release, and a streak of them becomes a hold. The probes of that hold carry
//! halves, so that a batch that is the only work is told apart as well.
//!
//! The bulk delete gives no reason for a row that it fails. Before such a row is dead, it is moved to a lane of rows that
//! get a *single-entry DELETE*, which tells whether there is such an entry. The same request decides, before an agent is
//! held for answers that delete nothing, whether those answers were about the rows.
//!
//! There is no claimed state: one daemon owns the file, so memory knows what is in flight, and the manifest is the
//! evidence if memory is lost. A request without an answer at the start is a crash's orphan, and settled as lost. What
//! the answers have shown of each agent ([`model::evidence`]) is lost with the process, but for what its rows say (`first_fault`,
//! `evidence`).
//!
//! # The rule
//!
//! **What a request as a whole came to is evidence about the request. A row is condemned (*dead*), and an entry believed
//! gone (*deleted*, *absent*), only on evidence about that row.** Evidence about a row is:
//!
//! * its ID in `deleted`, and not in `failed`, of a 200 to our own request;
//! * its ID not deleted by a 200 that deleted others;
//! * the API's own word on a single-entry DELETE of it ([`model::envelope`] says whose word an error is);
//! * for *dead* only: `max_attempts` failures, the last of them of a request about the row alone, while others got through;
//!   or a rejection of it alone, while not everything is rejected.
//!
//! Where no single-entry DELETE can ask, a row that 200s keep failing ends *dead* and unconfirmed (`maybe_done`). A
//! request that was open when the daemon died counts whatever others came to: a row that ends the daemon must end.
//!
//! # The invariants
//!
//! 1. No row is lost: an enqueued row is pending, deleted, absent or dead, always.
//! 2. `deleted` only if the API, answering our own request, listed that ID as deleted and not as failed, or said so of it
//!    alone; `absent` only if the API itself said of it alone that there is none; `dead` only on evidence about that row.
//! 3. A request carries 1 to 20 distinct IDs of one agent.
//! 4. Before an ID is sent, the database says so.
//! 5. No ID is in two requests at the same time.
//! 6. Never more requests in any window than the quota allows, across restarts; none during a hold but its probe.
//! 7. `attempts` never exceeds `max_attempts`; every row reaches an end if the API settles anything for its agent, or for
//!    anybody, for long enough.
//! 8. No transaction is open during a call, and no claim is held while waiting for a permit.
//! 9. The API key leaves the process only in the header of a request to the configured origin.
//! 10. Memory does not grow with the queue; no transaction grows with the agents, the holds or the rows.
//! 11. No agent waits for another's faults.
//! 12. When the API is well and nothing is held by a person, every due row ends within a bound.
//!
//! The README names the tests of each.

pub mod event;

pub mod printable;

pub mod small_file;

pub mod durations;

pub mod model;

pub mod pace;

pub mod queue;

pub mod api;

pub mod watch;

pub mod worker;

pub mod config;

pub mod sandbox;

pub mod cli;
