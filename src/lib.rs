//! Empties a SQLite queue of audio-cache deletions through PolyAI's bulk-delete API.
//!
//! # The map, from the core outwards
//!
//! | room | content | |
//! | --- | --- | --- |
//! | [`event`] | the names of the log events | pure |
//! | [`printable`] | escapes text from outside for terminals and logs | pure |
//! | [`small_file`] | reads a small file that the configuration names | |
//! | [`permission`] | explains why this process may not use a file | |
//! | [`durations`] | parses and prints durations | pure |
//! | [`model`] | deletions, time, backoff, holds, outcomes, and the decision table [`model::judge`] | pure |
//! | [`pace`] | whether a request may go out: permits, the adaptive rate, the limit that headers tell, holds, requests in flight | no I/O |
//! | [`queue`] | the seam between the worker and the engine that stores the queue | pure |
//! | [`queue::sqlite`] | the engine for a file on one machine, with all of its SQL | |
//! | [`queue::postgres`] | the engine for a server, with all of its SQL | |
//! | [`api`] | one request and its reply, the list of an agent's cache, the API key | |
//! | [`watch`] | logs, metrics, health, HTTP, the page, the service manager, the state of the queue in words | |
//! | [`worker`] | the loop: settle, refresh, schedule, commit, send | |
//! | [`config`] | the configuration: as written, as checked, as shown | |
//! | [`sandbox`] | a stand-in for the API | |
//! | [`cli`] | arguments, exit codes, signals, and a file for each command | |
//!
//! Imports run one way: `main → cli → {config, sandbox} → worker → watch → {queue, api, pace} → model → {event, printable,
//! small_file, durations} → permission`. A pure room neither waits nor reads nor writes. `tests/it/tidy.rs` holds the rooms to this, and
//! checks that only an engine has SQL.
//!
//! # The words
//!
//! Each word has one meaning, in the code, in the logs and in the documentation.
//!
//! | word | meaning |
//! | --- | --- |
//! | deletion | a row of the queue: one cached entry of one agent that somebody wants to be deleted |
//! | wish | somebody's order to delete an entry. A row serves all open wishes for its entry |
//! | label | the name under which wishes are followed: a ticket, a request for erasure |
//! | backlog | the pending rows |
//! | lane | the rows that may share a request: the same priority, agent and `batch_max` |
//! | batch | 1 to 20 rows of a lane with distinct IDs, claimed together |
//! | single-entry DELETE | the request about one entry, in contrast to the bulk delete; the only request of a lane whose `batch_max` is 0 |
//! | claim | a row in `requests` that is committed before the call; its manifest names the rows of the batch |
//! | in flight | named by the manifest of a request without an answer |
//! | answer | the two lists of a 200, before they are judged |
//! | fault | every other outcome of a call |
//! | cause | the reason for a verdict or a hold: a fixed set of words |
//! | verdict | the outcome for one row: deleted, absent, dead, retry or release |
//! | absent | the API knows no such entry |
//! | dead | given up; *unconfirmed* if nobody can tell whether the entry is gone (`maybe_done`) |
//! | retry | the row comes back, and the attempt counts |
//! | release | the row comes back, and the attempt does not count |
//! | settle | to write verdicts; an answer *settles something* if a row was deleted, or if the API itself spoke of one row |
//! | get through | a row's agent, or another agent if the row's agent has no other work, had something settled since the row's last request |
//! | verified | settled, and a listing of the agent's whole cache did not have the entry |
//! | evidence | the facts that a verdict on a row rests on: see the rule below |
//! | split | to send the rows of a failed batch again in smaller batches, because one ID may be the reason |
//! | reopened | a settled row that somebody enqueues again |
//! | window | a number of requests that the gateway allows in a time, as its headers tell it |
//! | throttled | answered with 429, or with 503 and `Retry-After` |
//! | streak | faults in a row, about different rows, with nothing settled in between |
//! | hold | a pause of one agent or of everything, until a time, for a cause |
//! | act | a hold, a lifted hold (`release`), a retry, a cancel, a verify or an enqueue that an operator did with a command |
//! | probe | the one request that goes out when a hold has ended, to see whether its cause is over |
//! | question | a hold that waits for one single-entry DELETE, which decides whether the hold is placed |
//! | turn | one pass of the loop |
//!
//! # The life of a row
//!
//! A producer inserts the row. It is *pending* and due at once. `PRAGMA data_version` tells the worker that another program has
//! written, and the worker lists the lanes. Lanes take turns. The due rows of a lane become batches, the oldest rows first. A
//! batch takes a permit, is claimed, and is sent after the claim is committed. The permit counts from the moment of sending.
//!
//! The outcome is *judged*: each row gets one verdict. The next transaction settles the verdicts, together with the next claims.
//! A row that comes back keeps its place among the rows of its agent. A row that is deleted, absent or dead is pruned after
//! `queue.retention`, and if it has a label after `queue.evidence_retention`.
//!
//! A request may fail as a whole because of one ID in it, or because nothing gets through. If others get through, the failure
//! counts as an attempt. If the batch fails again, it is split, until each row has failed alone or got through. If nothing gets
//! through, the rows are released, and a streak of such failures becomes a hold. The probes of that hold carry parts of the
//! batch, so that one bad ID is found even if its batch is the only work.
//!
//! A bulk delete gives no reason for an ID that it fails. Before such a row is made dead, it moves to a lane for single-entry
//! DELETEs, which tell whether there is such an entry. Before an agent is held for answers that delete nothing, a single-entry
//! DELETE decides whether those answers are about the rows.
//!
//! There is no state for claimed rows. One daemon owns the file, so its memory knows the rows in flight, and the manifest is the
//! record if the memory is lost. At a start, every request without an answer was left by a crash, and is settled as lost. The
//! evidence about agents ([`model::evidence`]) ends with the process. The evidence about rows is in their columns `first_fault`
//! and `evidence`.
//!
//! # The rule
//!
//! **The outcome of a whole request is evidence about the request. A row is made *dead*, and an entry is believed to be gone
//! (*deleted*, *absent*), only on evidence about that row.** Evidence about a row is:
//!
//! * its ID in `deleted`, and not in `failed`, of a 200 to our own request;
//! * a 200 that deleted other rows of the request, and not this one;
//! * the API's own word on a single-entry DELETE of the row ([`model::envelope`] tells the API's word from a gateway's);
//! * for *dead* only: `max_attempts` failures, of which the last was of a request about this row alone, while others got
//!   through; or a rejection of this row alone, while not everything is rejected.
//!
//! There are two exceptions. Where no single-entry DELETE can ask, a row that 200s keep failing ends *dead* and unconfirmed. And
//! a request that was in flight when the daemon died counts as an attempt whatever other requests came to: a row that ends the
//! daemon must itself end.
//!
//! # The invariants
//!
//! 1. No row is lost: an enqueued row is always pending, deleted, absent or dead.
//! 2. A row is `deleted` only if the API, answering our own request, listed its ID as deleted and not as failed, or confirmed a
//!    single-entry DELETE of it. A row is `absent` only if the API itself answered a single-entry DELETE that there is no such
//!    entry. A row is `dead` only on evidence about that row.
//! 3. A request carries 1 to 20 distinct IDs of one agent.
//! 4. An ID is sent only after the database says so.
//! 5. No ID is in two requests at the same time.
//! 6. In any window, never more requests leave than the rate limit allows, across restarts and changes of the limit.
//!    During a hold, only its probe leaves.
//! 7. `attempts` never exceeds `max_attempts`. Every row reaches an end if, for long enough, the API settles something for its
//!    agent or for any agent.
//! 8. No transaction is open during a call, and no claim is held while waiting for a permit.
//! 9. The API key leaves the process only in the header of a request to the configured origin.
//! 10. Memory does not grow with the rows. No transaction grows with the agents, the holds or the rows.
//! 11. No agent waits for the faults of another agent.
//! 12. When the API is well and no person holds anything, every due row ends within a bound.
//!
//! docs/guarantees.md names the tests of each invariant.

pub mod event;

pub mod printable;

pub mod small_file;

pub mod permission;

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
