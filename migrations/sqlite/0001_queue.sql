-- The queue. Producers write to this file with SQLite versions of their own. So everything that an INSERT runs works with
-- SQLite 3.26 and later: no STRICT, no unixepoch(), no JSON and no window functions in a DEFAULT, a CHECK or a trigger.
-- Only the view `outcomes` needs JSON, and SQLite looks into a view only when somebody reads it.
-- Times are INTEGER Unix milliseconds. SQLite prints the name of a CHECK constraint when it refuses a row.

PRAGMA application_id = 1396922192; -- 0x53435750, "SCWP": tells our file from any other SQLite database

-- There is one row per (agent, entry), ever. AUTOINCREMENT never gives out an id twice, so a verdict can never reach a row
-- that was inserted in the place of a removed one.
CREATE TABLE deletions (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id    TEXT    NOT NULL,
    entry_id    TEXT    NOT NULL,
    priority    INTEGER NOT NULL DEFAULT 0,
    state       TEXT    NOT NULL DEFAULT 'pending',
    attempts    INTEGER NOT NULL DEFAULT 0,
    due_at      INTEGER NOT NULL DEFAULT 0,
    batch_max   INTEGER NOT NULL DEFAULT 20, -- the most rows that its next request may have; 0: a single-entry DELETE
    asks        INTEGER NOT NULL DEFAULT 0,  -- single-entry DELETEs in a row that told nothing about the entry
    maybe_done  INTEGER NOT NULL DEFAULT 0,  -- 1: an attempt may have deleted the entry unseen
    request_id  INTEGER,                     -- the last request that has settled this row since it was opened
    -- The first of the requests that failed as a whole with this row since an answer was about this row by itself.
    first_fault INTEGER,
    -- The request that has shown that the row fails by its own doing: others got through.
    evidence    INTEGER,
    last_cause  TEXT,
    created_at  INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    settled_at  INTEGER,
    CONSTRAINT "id must be a positive integer" CHECK (id > 0),
    -- length() of a text stops at a NUL, length() of a blob does not.
    CONSTRAINT "agent_id must be text of 1 to 255 printable ASCII characters without spaces" CHECK (
        typeof(agent_id) = 'text' AND length(agent_id) BETWEEN 1 AND 255
        AND length(agent_id) = length(CAST(agent_id AS BLOB)) AND agent_id NOT GLOB '*[^!-~]*'),
    CONSTRAINT "agent_id must be one URL path segment: no slash, no backslash, not ., .. or *" CHECK (
        agent_id NOT GLOB '*[/\]*' AND agent_id NOT IN ('.', '..', '*')), -- '*' is the scope of a hold on everything
    CONSTRAINT "entry_id must be text of 1 to 255 printable ASCII characters without spaces" CHECK (
        typeof(entry_id) = 'text' AND length(entry_id) BETWEEN 1 AND 255
        AND length(entry_id) = length(CAST(entry_id AS BLOB)) AND entry_id NOT GLOB '*[^!-~]*'),
    CONSTRAINT "priority must be an integer" CHECK (typeof(priority) = 'integer'),
    CONSTRAINT "state must be pending, deleted, absent or dead" CHECK (
        state IN ('pending', 'deleted', 'absent', 'dead')),
    CONSTRAINT "attempts must be an integer of 0 or more" CHECK (typeof(attempts) = 'integer' AND attempts >= 0),
    CONSTRAINT "due_at must be Unix milliseconds, up to the year 9999" CHECK (
        typeof(due_at) = 'integer' AND due_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "batch_max must be an integer from 0 to 20" CHECK (
        typeof(batch_max) = 'integer' AND batch_max BETWEEN 0 AND 20),
    CONSTRAINT "asks must be an integer of 0 or more" CHECK (typeof(asks) = 'integer' AND asks >= 0),
    CONSTRAINT "maybe_done must be 0 or 1" CHECK (typeof(maybe_done) = 'integer' AND maybe_done IN (0, 1)),
    CONSTRAINT "request_id must be an integer" CHECK (typeof(request_id) IN ('integer', 'null')),
    CONSTRAINT "first_fault must be a positive integer, or NULL" CHECK (
        first_fault IS NULL OR (typeof(first_fault) = 'integer' AND first_fault > 0)),
    CONSTRAINT "evidence must be a positive integer, or NULL" CHECK (
        evidence IS NULL OR (typeof(evidence) = 'integer' AND evidence > 0)),
    CONSTRAINT "last_cause must be a known cause" CHECK (last_cause IS NULL OR last_cause IN (
        'api_failed', 'api_contradicted', 'api_silent', 'garbled', 'rejected', 'unauthorized', 'forbidden',
        'unknown_agent', 'contract', 'throttled', 'server_error', 'lost', 'unreachable',
        'untrusted')),
    CONSTRAINT "created_at must be Unix milliseconds, up to the year 9999" CHECK (
        typeof(created_at) = 'integer' AND created_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "settled_at must be Unix milliseconds" CHECK (
        settled_at IS NULL OR (typeof(settled_at) = 'integer' AND settled_at BETWEEN 0 AND 253402300799999)),
    CONSTRAINT "a pending row has no settled_at, a settled row has one" CHECK ((state = 'pending') = (settled_at IS NULL)),
    CONSTRAINT "one row per agent_id and entry_id" UNIQUE (agent_id, entry_id)
);

-- The lanes, and the order of dispatch inside each lane. Most rows are due at once and have the same due_at: the id, which
-- SQLite has in every index, puts those in the order in which they were enqueued. With created_at in it, emptying a queue of
-- 1,000 agents takes an eighth longer. No other index may follow the state: a second one makes settling rows five to seven
-- times slower.
CREATE INDEX deletions_due ON deletions (priority, agent_id, batch_max, due_at) WHERE state = 'pending';

-- This index is small, and the way from pending to deleted does not touch it. With it, counting the dead rows does not read
-- the table.
CREATE INDEX deletions_dead ON deletions (last_cause) WHERE state = 'dead';

-- A plain INSERT never fails on a duplicate, and a wish is never dropped.
CREATE TRIGGER deletions_repeat BEFORE INSERT ON deletions
WHEN EXISTS (SELECT 1 FROM deletions WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id)
BEGIN
    -- An open row takes over a higher priority.
    UPDATE deletions SET priority = NEW.priority
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state = 'pending' AND priority < NEW.priority;
    -- An open row takes over an earlier time, too: "delete it now" after "delete it in a week". After a first attempt, due_at
    -- is the time of the next one, and a producer that repeats itself must not cancel that delay.
    UPDATE deletions SET due_at = NEW.due_at
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state = 'pending' AND NEW.due_at < due_at
        AND due_at <> created_at AND request_id IS NULL AND attempts = 0;
    -- A settled row is reopened, because somebody wants the entry gone again. Its history stays in `requests`. Its id is an
    -- old one: what is due at once has its turn by the time of this INSERT.
    UPDATE deletions SET state = 'pending', settled_at = NULL, attempts = 0, batch_max = 20,
        due_at = CASE NEW.due_at WHEN 0 THEN NEW.created_at ELSE NEW.due_at END,
        asks = 0, maybe_done = 0, request_id = NULL, first_fault = NULL, evidence = NULL, last_cause = NULL, priority = NEW.priority,
        created_at = NEW.created_at
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state <> 'pending';
    SELECT RAISE(IGNORE);
END;

-- INSERT OR REPLACE with the id of another row would silently remove that row.
-- In a BEFORE trigger, NEW.id is -1 if the INSERT gives no id. Without `NEW.id > 0`, a row with the id -1, which somebody
-- inserted with CHECKs switched off, would block every such INSERT.
CREATE TRIGGER deletions_id_taken BEFORE INSERT ON deletions
WHEN NEW.id > 0
    AND EXISTS (SELECT 1 FROM deletions WHERE id = NEW.id AND (agent_id <> NEW.agent_id OR entry_id <> NEW.entry_id))
BEGIN
    SELECT RAISE(ABORT, 'this id belongs to another deletion: leave the id out of the INSERT');
END;

-- AUTOINCREMENT gives out the highest id so far plus one. After a row with the highest possible id, every INSERT would fail
-- with "database or disk is full". 2^53 is more than will ever be enqueued.
CREATE TRIGGER deletions_id_too_high BEFORE INSERT ON deletions
WHEN NEW.id > 9007199254740992
BEGIN
    SELECT RAISE(ABORT, 'this id leaves no room for others: leave the id out of the INSERT');
END;

CREATE TRIGGER deletions_id_changed BEFORE UPDATE OF id ON deletions
WHEN NEW.id IS NOT OLD.id
BEGIN
    SELECT RAISE(ABORT, 'the id of a deletion stays as it is');
END;

-- One row per HTTP request, committed before the call. A row without answered_at is in flight, or was sent by a daemon that
-- died.
CREATE TABLE requests (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    correlation_id TEXT    NOT NULL, -- the UUID that we send as X-PolyAI-Correlation-Id
    agent_id       TEXT    NOT NULL,
    kind           TEXT    NOT NULL DEFAULT 'bulk', -- single: a single-entry DELETE
    deletion_ids   TEXT    NOT NULL, -- the manifest: a JSON array of deletions.id
    size           INTEGER NOT NULL, -- the number of those ids
    claimed_at     INTEGER NOT NULL,
    answered_at    INTEGER,
    status         INTEGER,          -- HTTP status; NULL if there was none
    deleted        INTEGER,          -- deleted, absent, retried, dead: how many rows got that verdict
    absent         INTEGER,
    retried        INTEGER,          -- with those that were released
    dead           INTEGER,
    fault          TEXT,             -- the cause, if the request failed as a whole or deleted nothing
    detail         TEXT,             -- what was said with it: the API's message or the network's error
    remote_id      TEXT,             -- the correlation ID that came back
    -- What the request did to its rows: [{"verdict": …, "cause": …, "deletion_ids": […]}, …]; no deletion_ids: all of them.
    -- It is here, and not in a row per deletion, because such rows made a deletion a sixth more expensive.
    verdicts       TEXT,
    CONSTRAINT "kind must be bulk or single" CHECK (kind IN ('bulk', 'single')),
    CONSTRAINT "size must be from 1 to 20" CHECK (size BETWEEN 1 AND 20),
    CONSTRAINT "fault must be a known cause" CHECK (fault IS NULL OR fault IN (
        'api_failed', 'api_contradicted', 'api_silent', 'garbled', 'rejected', 'unauthorized', 'forbidden',
        'unknown_agent', 'contract', 'throttled', 'server_error', 'lost', 'unreachable',
        'untrusted'))
);

-- It has as many entries as there are calls in flight.
CREATE INDEX requests_unanswered ON requests (id) WHERE answered_at IS NULL;

-- What each request did to each of its rows. Verdicts or a manifest that somebody damaged are left out, and do not keep
-- anybody from reading the others.
CREATE VIEW outcomes (request_id, deletion_id, verdict, cause) AS
SELECT requests.id, deletion.value, json_extract(given.value, '$.verdict'), json_extract(given.value, '$.cause')
FROM requests
CROSS JOIN json_each(CASE WHEN json_valid(requests.verdicts) THEN requests.verdicts END) AS given
CROSS JOIN json_each(CASE WHEN given.type = 'object' THEN CASE
    WHEN json_type(given.value, '$.deletion_ids') = 'array' THEN json_extract(given.value, '$.deletion_ids')
    WHEN json_valid(requests.deletion_ids) THEN requests.deletion_ids END END) AS deletion;

-- Pauses. An INSERT by hand pauses '*' or one agent until until_at (NULL: until the row is deleted).
CREATE TABLE holds (
    scope     TEXT    NOT NULL,
    cause     TEXT    NOT NULL DEFAULT 'operator',
    since_at  INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    until_at  INTEGER,
    probed_at INTEGER,                    -- when a request last met what the hold is for
    repeats   INTEGER NOT NULL DEFAULT 0, -- how often in a row the daemon has placed the hold: what makes it grow
    -- A second pause of the same scope for the same cause takes the place of the first.
    PRIMARY KEY (scope, cause) ON CONFLICT REPLACE,
    CONSTRAINT "scope must be * or an agent_id" CHECK (
        typeof(scope) = 'text' AND length(scope) BETWEEN 1 AND 255
        AND length(scope) = length(CAST(scope AS BLOB)) AND scope NOT GLOB '*[^!-~]*'),
    CONSTRAINT "cause must be operator or a cause the daemon holds for" CHECK (cause IN (
        'operator', 'api_failed', 'api_contradicted', 'api_silent', 'garbled', 'rejected', 'unauthorized', 'forbidden',
        'unknown_agent', 'contract', 'throttled', 'server_error', 'lost', 'unreachable',
        'untrusted')),
    CONSTRAINT "since_at must be Unix milliseconds" CHECK (
        typeof(since_at) = 'integer' AND since_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "until_at must be Unix milliseconds, or NULL for until the row is deleted" CHECK (
        until_at IS NULL OR (typeof(until_at) = 'integer' AND until_at BETWEEN 0 AND 253402300799999)),
    CONSTRAINT "probed_at must be Unix milliseconds, or NULL" CHECK (
        probed_at IS NULL OR (typeof(probed_at) = 'integer' AND probed_at BETWEEN 0 AND 253402300799999)),
    CONSTRAINT "repeats must be an integer of 0 or more" CHECK (typeof(repeats) = 'integer' AND repeats >= 0)
);

-- Who works on the queue, for those who look. The daemon writes this one row at its start, and again with its next write when
-- its rate has changed. The row outlives its writer: only the lock beside the file tells whether the daemon still runs.
CREATE TABLE daemon (
    id                  INTEGER PRIMARY KEY,
    pid                 INTEGER NOT NULL,
    version             TEXT    NOT NULL,
    started_at          INTEGER NOT NULL,
    requests_per_second REAL    NOT NULL, -- the current rate, below the configured one if the API bears less
    updated_at          INTEGER NOT NULL,
    CONSTRAINT "there is one daemon" CHECK (id = 1)
);
