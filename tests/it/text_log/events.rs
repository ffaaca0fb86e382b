//! An event of each kind, as the daemon logs them.

use audio_cache_sweeper::{event, model::clock::Timestamp};
use tracing::{debug, error, info, warn};

/// 2026-11-26, 14:03:07 in the zone of these tests.
pub const NOW: Timestamp = Timestamp(1_795_698_187_000);

#[expect(clippy::too_many_lines, reason = "one event after the other")]
pub fn requests() {
    let agent = "PROJECT-58RP822I";
    info!(
        event = event::REQUEST,
        request = 7,
        correlation_id = "c",
        agent,
        kind = "bulk",
        size = 20,
        status = 200,
        deleted = 20,
        absent = 0,
        retried = 0,
        dead = 0,
        took_ms = 214,
        "request answered"
    );
    info!(
        event = event::REQUEST,
        request = 8,
        agent,
        kind = "single",
        size = 1,
        status = 404,
        deleted = 0,
        absent = 1,
        retried = 0,
        dead = 0,
        took_ms = 60,
        "request answered"
    );
    warn!(
        event = event::REQUEST,
        request = 9,
        agent,
        kind = "bulk",
        size = 20,
        status = 503,
        fault = "server_error",
        deleted = 0,
        absent = 0,
        retried = 20,
        dead = 0,
        took_ms = 30_012,
        detail = "upstream connect error or disconnect/reset before headers",
        "request failed"
    );
    warn!(
        event = event::REQUEST,
        request = 9,
        agent,
        kind = "bulk",
        size = 20,
        status = 429,
        fault = "throttled",
        deleted = 0,
        absent = 0,
        retried = 20,
        released = 20,
        dead = 0,
        took_ms = 80,
        "request failed"
    );
    warn!(
        event = event::REQUEST,
        request = 9,
        agent,
        kind = "bulk",
        size = 20,
        status = 200,
        cause = "api_failed",
        deleted = 0,
        absent = 0,
        retried = 20,
        released = 0,
        dead = 0,
        took_ms = 80,
        "request failed"
    );
    warn!(
        event = event::REQUEST,
        request = 10,
        agent = "long-".repeat(51),
        kind = "bulk",
        size = 20,
        fault = "unreachable",
        deleted = 0,
        absent = 0,
        retried = 20,
        dead = 0,
        took_ms = 3,
        detail = "failed: \u{1b}[2J tcp connect error",
        "request failed"
    );
    debug!(
        event = event::DELETION,
        request = 9,
        deletion = 3,
        agent,
        entry = "4711",
        verdict = "retry",
        cause = "server_error",
        due_at = NOW.0 + 10_000,
        "row judged"
    );
    debug!(
        event = event::DELETION,
        request = 9,
        deletion = 3,
        agent,
        entry = "4711",
        verdict = "deleted",
        "row judged"
    );
    warn!(
        event = event::DEAD,
        request = 9,
        agent,
        cause = "lost",
        rows = 2,
        unconfirmed = 1,
        entries = "1,2",
        "rows are dead"
    );
    warn!(
        event = event::UNEXPECTED_IDS,
        request = 9,
        correlation_id = "c",
        agent,
        ids = 2,
        "the API listed IDs that were not sent"
    );
    warn!(
        event = event::RESPONSE_MISMATCH,
        request = 9,
        correlation_id = "c",
        remote_id = "d",
        agent,
        "the answer has the correlation ID of another request"
    );
    warn!(
        event = event::UNKNOWN_CORRELATION_ID,
        request = 9,
        correlation_id = "c",
        remote_id = "d",
        "answers have correlation IDs that were never sent"
    );
    warn!(
        event = event::SINGLE_DELETE_REFUSED,
        agent,
        status = 405,
        fault = "contract",
        "a single-entry DELETE was refused"
    );
}

pub fn holds() {
    let agent = "PROJECT-58RP822I";
    let (reason, remedy) = ("the API does not know this agent", "is the ID right, and api.region = eu?");
    error!(
        event = event::HOLD_PLACED,
        scope = agent,
        cause = "unknown_agent",
        until_at = NOW.0 + 60_000,
        repeats = 0,
        detail = "agent not found",
        reason,
        remedy,
        "held; a person must act"
    );
    warn!(
        event = event::HOLD_PLACED,
        scope = "*",
        cause = "operator",
        repeats = 0,
        reason = "a person has placed this hold",
        why = "wrong voice",
        remedy = "`sweeper release --all` lifts it",
        "held"
    );
    error!(
        event = event::HOLD_PLACED,
        scope = "*",
        cause = "lost",
        until_at = NOW.0 + 86_400_000,
        repeats = 9,
        reason = "requests are sent, and no answer comes",
        remedy = "see to the network",
        "held for the longest time: the fault has not gone away by itself, and a person must act"
    );
    warn!(
        event = event::HOLD_PLACED,
        scope = agent,
        cause = "unknown_agent",
        until_at = NOW.0 + 60_000,
        repeats = 2,
        reason,
        remedy,
        "held since before the start"
    );
    info!(
        event = event::HOLD_PROBED,
        scope = agent,
        cause = "unknown_agent",
        request = 11,
        "the hold is over; one request probes"
    );
    info!(event = event::HOLD_LIFTED, scope = "*", cause = "lost", "hold lifted");
}

pub fn limits() {
    info!(event = event::RATE_CHANGED, from = 5.0, to = 4.75, why = "throttled", "rate changed");
    info!(event = event::RATE_CHANGED, from = 5.0, to = 4.75, why = "learnt", "rate changed");
    for (from, to, why) in [
        (8, 7, "latency"),
        (7, 8, "latency"),
        (8, 4, "throttled"),
        (4, 5, "probing"),
        (5, 8, "acquitted"),
        (8, 1, "learnt"),
        (2, 3, "new"),
    ] {
        info!(event = event::CONCURRENCY_CHANGED, from, to, why, "the most requests in flight changed");
    }
    for (from, to, why) in [(5, 1, "throttled"), (1, 5, "probing"), (5, 1, "learnt")] {
        info!(event = event::BURST_CHANGED, from, to, why, "the most requests at once changed");
    }
}

#[expect(clippy::too_many_lines, reason = "one event after the other")]
pub fn life() {
    info!(
        event = event::STARTED,
        version = "1.2.3",
        database = "/var/lib/sweeper/sweeper.db",
        created = true,
        adopted = false,
        api = "https://api.eu.poly.ai/",
        requests_per_second = 5.0,
        burst = 5,
        concurrency = 8,
        "started"
    );
    warn!(
        event = event::RECOVERED,
        requests = 1,
        retried = 20,
        dead = 0,
        "requests without an answer were settled as lost"
    );
    info!(
        event = event::SUMMARY,
        pending = 1_234,
        due = 1_000,
        in_flight = 3,
        dead = 2,
        oldest_due_s = 3_700,
        deleted_per_s = 12.3,
        holds = 1,
        requests_per_second = 4.75,
        rate_ceiling = 100.0,
        rate_why = "found",
        concurrency = 4,
        concurrency_ceiling = 8,
        concurrency_why = "throttled",
        requests_total = 100,
        deleted_total = 1_980,
        absent_total = 1,
        dead_total = 2,
        longest_write_ms = 4,
        log_lines_dropped = 0,
        "summary"
    );
    warn!(event = event::SUMMARY, error = "database is locked", "the queue could not be counted");
    debug!(event = event::PRUNED, rows = 200, "old rows removed");
    warn!(event = event::CLOCK_JUMPED, by_ms = -7_000, "the clock was set; holds and lanes are read again");
    warn!(event = event::CLOCK_SUSPECT, ahead_s = 5_000_000, "the clock is far ahead");
    info!(event = event::KEY_CHANGED, "api.key_file has another key now");
    warn!(event = event::KEY_UNUSABLE, error = "api.key_file /run/key: it is empty", "the key file cannot be used");
    warn!(
        event = event::KEY_EXPOSED,
        setting = "api.key_file",
        path = "/run/key",
        mode = "0644",
        "the file with the API key: everyone may read it; chmod 600 ends that"
    );
    warn!(event = event::PROXY_IGNORED, variables = "HTTPS_PROXY", "the environment names a proxy, which is not used");
    error!(
        event = event::INVALID_ROWS,
        rows = 2,
        ids = "7, 9",
        problem = "entry_id has white space",
        "pending rows with values that the schema does not allow were made dead"
    );
    warn!(
        event = event::DATABASE_UNAVAILABLE,
        error = "database /q.db: database is locked",
        "the database cannot be used; trying again every second until it can"
    );
    info!(event = event::DATABASE_AVAILABLE, "the database can be used again");
    warn!(
        event = event::SD_NOTIFY_FAILED,
        socket = "/run/notify",
        error = "refused",
        "a message to the service manager cannot be sent"
    );
    info!(event = event::LISTENING, address = "127.0.0.1:9464", "serving metrics and health");
    warn!(event = event::HTTP_FAILED, address = "127.0.0.1:9464", error = "broken", "the HTTP endpoint has ended");
    warn!(event = event::COUNT_FAILED, error = "busy", "the rows cannot be counted");
    warn!(event = event::WAL_GROWING, mib = 17, readers = "17 python3", "the write-ahead log grows");
    warn!(event = event::SCHEMA_MODIFIED, names = "trigger theirs", "the tables are not as sweeper makes them");
    error!(
        event = event::TRIGGER_INTERFERENCE,
        names = "trigger theirs",
        error = "undone",
        "a statement did not have its effect; nothing more is sent"
    );
    info!(
        event = event::RELOADED,
        changes = "delivery.linger: 500ms -> 1s, log.filter: info -> debug",
        "the configuration was read again"
    );
    warn!(
        event = event::RESTART_NEEDED,
        keys = "http.listen: off -> 127.0.0.1:9464",
        "these settings stay as they are until the daemon is restarted"
    );
    error!(
        event = event::RELOAD_FAILED,
        error = "/etc/sweeper/sweeper.toml, line 3: unknown key",
        "the configuration was read again and cannot be used; the daemon goes on with the old one"
    );
    warn!(
        event = event::STOPPED_AT_ONCE,
        signal = "SIGTERM",
        exit_code = 1,
        requests = 2,
        "a second signal ends the daemon at once"
    );
    info!(event = event::STOPPING, why = "told", in_flight = 1, "stopping");
    info!(
        event = event::STOPPED,
        exit_code = 0,
        requests = 12,
        deleted = 220,
        absent = 1,
        retried = 3,
        dead = 0,
        "stopped"
    );
    error!(
        event = event::STOPPED,
        exit_code = 3,
        error = "database /q.db: another sweeper is working on it",
        "stopped"
    );
    info!(
        event = "an_event_of_another_year",
        seen_at = NOW.0 - 60_000,
        took_ms = 1_500,
        name = "two words",
        "it happened"
    );
    info!(number = 1, "no event of ours");
}

pub fn leaders() {
    let leader = "user sweeper from 10.0.0.7 session 4711";
    info!(event = event::STANDBY, leader, "standing by: another daemon leads");
    info!(event = event::LEADING, epoch = 7, orphans = 2, waited_ms = 5_120, "this daemon leads");
    let why = "database app at db:5432: reconnect: another sweeper works on this queue now";
    warn!(event = event::DEPOSED, why, "another daemon leads now; this one stands by");
    let consequence = "after a take-over, retries and the ends of holds come at other times";
    warn!(event = event::CLOCK_SKEW, skew_ms = -2_400, "the server's clock and this machine's differ: {consequence}");
    warn!(
        event = event::OLD_SNAPSHOT,
        pid = 4_712,
        user = "ann",
        application = "psql",
        age_s = 660,
        "a transaction that is open for long keeps the server from removing old rows, and the queue gets slower: end it"
    );
}

pub fn acts() {
    info!(
        event = event::OPERATOR_ACT,
        act = "hold",
        acted_at = NOW.0 - 3_000,
        operator = "ann",
        scope = "*",
        rows = 1,
        detail = "until somebody releases it: wrong voice",
        ended = true,
        "ann held everything"
    );
}
