-- The queue. Producers write to it with SQLite versions of their own, so everything here opens and takes inserts
-- with SQLite 3.26 and later: no STRICT, no unixepoch(), no JSON and no window functions.
-- Times are INTEGER Unix milliseconds. The names of the CHECK constraints are what SQLite prints when it refuses a row.

PRAGMA application_id = 1396922192; -- 0x53435750, "SCWP": tells our file from any other SQLite database

-- One row per (agent, entry), ever. AUTOINCREMENT: an id is never given out twice, so a verdict can never reach
-- a row that was inserted in the place of a removed one.
CREATE TABLE deletions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id   TEXT    NOT NULL,
    entry_id   TEXT    NOT NULL,
    priority   INTEGER NOT NULL DEFAULT 0,
    state      TEXT    NOT NULL DEFAULT 'pending',
    attempts   INTEGER NOT NULL DEFAULT 0,
    due_at     INTEGER NOT NULL DEFAULT 0,
    batch_max  INTEGER NOT NULL DEFAULT 20,
    maybe_done INTEGER NOT NULL DEFAULT 0,
    request_id INTEGER,
    last_cause TEXT,
    created_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    settled_at INTEGER,
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
    CONSTRAINT "state must be pending, deleted or dead" CHECK (state IN ('pending', 'deleted', 'dead')),
    CONSTRAINT "attempts must be an integer of 0 or more" CHECK (typeof(attempts) = 'integer' AND attempts >= 0),
    CONSTRAINT "due_at must be Unix milliseconds, up to the year 9999" CHECK (
        typeof(due_at) = 'integer' AND due_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "batch_max must be an integer from 1 to 20" CHECK (
        typeof(batch_max) = 'integer' AND batch_max BETWEEN 1 AND 20),
    CONSTRAINT "maybe_done must be 0 or 1" CHECK (typeof(maybe_done) = 'integer' AND maybe_done IN (0, 1)),
    CONSTRAINT "request_id must be an integer" CHECK (typeof(request_id) IN ('integer', 'null')),
    CONSTRAINT "last_cause must be a known cause" CHECK (last_cause IS NULL OR last_cause IN (
        'api_failed', 'api_contradicted', 'api_silent', 'garbled', 'rejected', 'unauthorized', 'forbidden',
        'unknown_agent', 'contract', 'throttled', 'server_error', 'lost', 'unreachable')),
    CONSTRAINT "created_at must be Unix milliseconds, up to the year 9999" CHECK (
        typeof(created_at) = 'integer' AND created_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "settled_at must be Unix milliseconds" CHECK (
        settled_at IS NULL OR (typeof(settled_at) = 'integer' AND settled_at BETWEEN 0 AND 253402300799999)),
    CONSTRAINT "a pending row has no settled_at, a settled row has one" CHECK ((state = 'pending') = (settled_at IS NULL)),
    CONSTRAINT "one row per agent_id and entry_id" UNIQUE (agent_id, entry_id)
);

-- The lanes, and inside each lane the order of dispatch. The only index that every state change touches: a second one
-- costs a factor of five to seven when rows settle.
CREATE INDEX deletions_due ON deletions (priority, agent_id, batch_max, due_at) WHERE state = 'pending';

-- Small, and untouched by the way from pending to deleted: makes the dead countable without reading the table.
CREATE INDEX deletions_dead ON deletions (last_cause) WHERE state = 'dead';

-- A plain INSERT never fails on a duplicate, and a wish is never dropped.
CREATE TRIGGER deletions_repeat BEFORE INSERT ON deletions
WHEN EXISTS (SELECT 1 FROM deletions WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id)
BEGIN
    -- still open: nothing to do but to take over a higher priority
    UPDATE deletions SET priority = NEW.priority
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state = 'pending' AND priority < NEW.priority;
    -- settled: asked for again, so open it again; its history stays in outcomes
    UPDATE deletions SET state = 'pending', settled_at = NULL, attempts = 0, due_at = NEW.due_at, batch_max = 20,
        maybe_done = 0, last_cause = NULL, priority = NEW.priority, created_at = NEW.created_at
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state <> 'pending';
    SELECT RAISE(IGNORE);
END;

-- INSERT OR REPLACE with an id that another row has would silently remove that row.
CREATE TRIGGER deletions_id_taken BEFORE INSERT ON deletions
WHEN EXISTS (SELECT 1 FROM deletions WHERE id = NEW.id AND (agent_id <> NEW.agent_id OR entry_id <> NEW.entry_id))
BEGIN
    SELECT RAISE(ABORT, 'this id belongs to another deletion: leave the id out of the INSERT');
END;

-- One row per HTTP request, committed before the call. Without answered_at: in flight, or sent by a daemon that died.
CREATE TABLE requests (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    correlation_id TEXT    NOT NULL, -- the UUID we send as X-PolyAI-Correlation-Id
    agent_id       TEXT    NOT NULL,
    deletion_ids   TEXT    NOT NULL, -- the manifest: a JSON array of deletions.id
    size           INTEGER NOT NULL, -- how many those are
    claimed_at     INTEGER NOT NULL,
    answered_at    INTEGER,
    status         INTEGER,          -- HTTP status; NULL if there was none
    deleted        INTEGER,          -- how many rows were given each verdict; retried counts those released, too
    retried        INTEGER,
    dead           INTEGER,
    fault          TEXT,             -- the cause, unless it was a 200 with the two lists
    detail         TEXT,             -- what was said with it: the API's message or the network's error
    remote_id      TEXT,             -- the correlation ID that came back
    CONSTRAINT "size must be from 1 to 20" CHECK (size BETWEEN 1 AND 20),
    CONSTRAINT "fault must be a known cause" CHECK (fault IS NULL OR fault IN (
        'garbled', 'rejected', 'unauthorized', 'forbidden', 'unknown_agent', 'contract', 'throttled', 'server_error',
        'lost', 'unreachable'))
);

-- As many entries as there are calls in flight.
CREATE INDEX requests_unanswered ON requests (id) WHERE answered_at IS NULL;

-- What each request did to each of its rows. Append-only.
CREATE TABLE outcomes (
    request_id  INTEGER NOT NULL,
    deletion_id INTEGER NOT NULL,
    verdict     TEXT    NOT NULL,
    cause       TEXT,
    PRIMARY KEY (request_id, deletion_id),
    CONSTRAINT "verdict must be deleted, retry, release or dead" CHECK (verdict IN ('deleted', 'retry', 'release', 'dead'))
) WITHOUT ROWID;

-- Pauses. An INSERT by hand pauses '*' or one agent until until_at (NULL: until the row is deleted).
CREATE TABLE holds (
    scope    TEXT    NOT NULL,
    cause    TEXT    NOT NULL DEFAULT 'operator',
    since_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    until_at INTEGER,
    repeats  INTEGER NOT NULL DEFAULT 0, -- how often in a row the daemon has placed it: what makes it grow
    -- A second pause of the same scope for the same cause takes the place of the first.
    PRIMARY KEY (scope, cause) ON CONFLICT REPLACE,
    CONSTRAINT "scope must be * or an agent_id" CHECK (
        typeof(scope) = 'text' AND length(scope) BETWEEN 1 AND 255
        AND length(scope) = length(CAST(scope AS BLOB)) AND scope NOT GLOB '*[^!-~]*'),
    CONSTRAINT "cause must be operator or a cause the daemon holds for" CHECK (cause IN (
        'operator', 'garbled', 'unauthorized', 'forbidden', 'unknown_agent', 'contract', 'throttled', 'server_error',
        'lost', 'unreachable')),
    CONSTRAINT "since_at must be Unix milliseconds" CHECK (
        typeof(since_at) = 'integer' AND since_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "until_at must be Unix milliseconds, or NULL for until the row is deleted" CHECK (
        until_at IS NULL OR (typeof(until_at) = 'integer' AND until_at BETWEEN 0 AND 253402300799999)),
    CONSTRAINT "repeats must be an integer of 0 or more" CHECK (typeof(repeats) = 'integer' AND repeats >= 0)
);
