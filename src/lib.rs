//! Empties a SQLite queue of audio-cache deletions through PolyAI's bulk-delete API.
//!
//! # The map, in reading order
//!
//! | module | what it is | |
//! | --- | --- | --- |
//! | [`clock`] | time as a value; the only reader of a clock | pure |
//! | [`printable`] | text from outside, fit for a terminal and a log | pure |
//! | [`small_file`] | a file that the configuration names, and that may be anything | |
//! | [`deletion`] | the nouns | pure |
//! | [`backoff`] | the schedule | pure |
//! | [`envelope`] | whose word an error is | pure |
//! | [`echo`] | whose answer it is | pure |
//! | [`outcome`] | what came of a call, and what can follow from it | pure |
//! | [`hold`] | a pause, as it is kept | pure |
//! | [`judge`] | what does follow from it: the decision table | pure |
//! | [`evidence`] | what the answers so far have shown of each agent | pure |
//! | [`lanes`] | whose turn it is | pure |
//! | [`pace`] | whether a request may go out: the rate, the holds, how many at a time | no I/O |
//! | [`queue`] | what crosses the seam between the worker and the engine that keeps the queue | pure |
//! | [`key`] | the API key, and its only way out | |
//! | [`api`] | one request and its reply | |
//! | [`store`] | all the SQL there is | |
//! | [`metrics`] | what is counted and measured | |
//! | [`health`] | how the daemon is, said by the loop | pure |
//! | [`telemetry`] | where logs go, and the names in them | |
//! | [`supervisor`] | the service manager, told how we are | |
//! | [`worker`] | the loop over all of these | |
//! | [`http`] | what whoever watches can ask | |
//! | [`config`] | configuration, as written and as meant | |
//! | [`sandbox`] | a stand-in for the API | |
//! | [`cli`] | arguments, exit codes, signals; what an operator does | |
//!
//! Imports run one way: `main → cli → {config, sandbox} → {worker, http} → metrics → {store, api, supervisor} → {pace,
//! lanes, evidence, key} → queue → {judge, hold} → {outcome, health, telemetry} → {echo, envelope, deletion, backoff} → {clock, printable,
//! small_file}`. A test holds
//! that, and that only the store knows SQL.
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
//! the answers have shown of each agent ([`evidence`]) is lost with the process, but for what its rows say (`first_fault`,
//! `evidence`).
//!
//! # The rule
//!
//! **What a request as a whole came to is evidence about the request. A row is condemned (*dead*), and an entry believed
//! gone (*deleted*, *absent*), only on evidence about that row.** Evidence about a row is:
//!
//! * its ID in `deleted`, and not in `failed`, of a 200 to our own request;
//! * its ID not deleted by a 200 that deleted others;
//! * the API's own word on a single-entry DELETE of it ([`envelope`] says whose word an error is);
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

pub mod clock;

pub mod printable;

pub mod small_file;

pub mod aside;

pub mod deletion;

pub mod backoff;

pub mod envelope;

pub mod echo;

pub mod outcome;

pub mod hold;

pub mod judge;

pub mod evidence;

pub mod lanes;

pub mod pace;

pub mod queue;

pub mod key;

pub mod api;

pub mod store;

pub mod metrics;

pub mod health;

pub mod telemetry;

pub mod supervisor;

pub mod worker;

pub mod http;

pub mod config;

pub mod sandbox;

pub mod cli;
