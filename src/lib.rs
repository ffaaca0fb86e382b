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
//! | [`judge`] | what does follow from it: the decision table | pure |
//! | [`evidence`] | what the answers so far have shown of each agent | pure |
//! | [`lanes`] | whose turn it is | pure |
//! | [`pace`] | whether a request may go out: the rate, the holds, how many at a time | no I/O |
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
//! lanes, evidence, key} → judge → {outcome, health, telemetry} → {echo, envelope, deletion, backoff} → {clock, printable,
//! small_file}`. A test holds
//! that, and that only the store knows SQL.
//!
//! # The life of a row
//!
//! A producer inserts it: *pending*, due at once. The worker sees by `PRAGMA data_version` that somebody wrote, and
//! lists the *lanes*: the rows that may share a request. When there is room, a lane whose turn it is is looked at; its
//! due rows become *batches*; a batch that gets a permit is *claimed* (a row in `requests` with its manifest), and sent
//! after that is committed. What comes back is *judged*: each row gets one verdict. The next transaction *settles* it,
//! together with the next claims. A row that comes back is due later; one that is deleted, absent or dead is pruned when
//! it is old.
//!
//! The bulk delete gives no reason for a row that it fails. Before such a row is dead, it is moved to a lane of rows that
//! are asked about *alone*, where one request tells whether there is such an entry.
//!
//! There is no claimed state: one daemon owns the file, so memory knows what is in flight, and the manifest is the
//! evidence if memory is lost. A request without an answer at the start is a crash's orphan, and settled as lost.
//!
//! # The invariants
//!
//! What a request as a whole came to is evidence about the request; a row is condemned (*dead*), and an entry believed gone
//! (*deleted*, *absent*), only on evidence about that row.
//!
//! 1. No row is lost: an enqueued row is pending, deleted, absent or dead, always.
//! 2. `deleted` only if the API, answering our own request, listed that ID as deleted and not as failed, or said so of it
//!    alone; `absent` only if the API itself said of it alone that there is none; `dead` only on evidence about that row:
//!    it failed while others got through, the last time alone, or the API itself rejected it alone.
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
//! The README names the test of each.

pub mod clock;

pub mod printable;

pub mod small_file;

pub mod deletion;

pub mod backoff;

pub mod envelope;

pub mod echo;

pub mod outcome;

pub mod judge;

pub mod evidence;

pub mod lanes;

pub mod pace;

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
