-- Rows that a bulk delete cannot settle are asked about alone, and the API may know no such entry: "absent".
-- SQLite cannot change a CHECK, so the tables that get a new value are made anew; what is in them stays as it is.

-- A row whose CHECKs were switched off when it was inserted comes along; it must not keep the others here.
PRAGMA ignore_check_constraints = ON;
-- A view that somebody made on these tables is none of a renaming's business.
PRAGMA legacy_alter_table = ON;

-- One row per (agent, entry), ever. AUTOINCREMENT: an id is never given out twice, so a verdict can never reach
-- a row that was inserted in the place of a removed one.
CREATE TABLE deletions_new (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id   TEXT    NOT NULL,
    entry_id   TEXT    NOT NULL,
    priority   INTEGER NOT NULL DEFAULT 0,
    state      TEXT    NOT NULL DEFAULT 'pending',
    attempts   INTEGER NOT NULL DEFAULT 0,
    due_at     INTEGER NOT NULL DEFAULT 0,
    batch_max  INTEGER NOT NULL DEFAULT 20, -- 0: asked about alone
    asks       INTEGER NOT NULL DEFAULT 0,  -- how often it was asked about alone, and nothing was learnt
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

INSERT INTO deletions_new (id, agent_id, entry_id, priority, state, attempts, due_at, batch_max, maybe_done, request_id, last_cause,
    created_at, settled_at)
SELECT id, agent_id, entry_id, priority, state, attempts, due_at, batch_max, maybe_done, request_id, last_cause,
    created_at, settled_at
FROM deletions ORDER BY id;

-- The ids go on where they were, also those of rows that are gone.
DELETE FROM sqlite_sequence WHERE name = 'deletions_new';
INSERT INTO sqlite_sequence (name, seq) SELECT 'deletions_new', seq FROM sqlite_sequence WHERE name = 'deletions';

-- Its indexes and triggers go with it.
DROP TABLE deletions;
ALTER TABLE deletions_new RENAME TO deletions;

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
        asks = 0, maybe_done = 0, last_cause = NULL, priority = NEW.priority, created_at = NEW.created_at
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state <> 'pending';
    SELECT RAISE(IGNORE);
END;

-- INSERT OR REPLACE with an id that another row has would silently remove that row.
-- In a BEFORE trigger, NEW.id is -1 if none was given: a row -1, its CHECK switched off, would stand for all of them.
CREATE TRIGGER deletions_id_taken BEFORE INSERT ON deletions
WHEN NEW.id > 0
    AND EXISTS (SELECT 1 FROM deletions WHERE id = NEW.id AND (agent_id <> NEW.agent_id OR entry_id <> NEW.entry_id))
BEGIN
    SELECT RAISE(ABORT, 'this id belongs to another deletion: leave the id out of the INSERT');
END;

-- AUTOINCREMENT gives out the highest id so far plus one: after a row with the highest that there is, every INSERT would
-- fail with "database or disk is full". 2^53 is more than will ever be enqueued.
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

ALTER TABLE requests ADD COLUMN kind TEXT NOT NULL DEFAULT 'bulk' -- single: one row, asked about alone
    CONSTRAINT "kind must be bulk or single" CHECK (kind IN ('bulk', 'single'));
ALTER TABLE requests ADD COLUMN absent INTEGER; -- how many rows were given that verdict

-- What each request did to each of its rows. Append-only.
CREATE TABLE outcomes_new (
    request_id  INTEGER NOT NULL,
    deletion_id INTEGER NOT NULL,
    verdict     TEXT    NOT NULL,
    cause       TEXT,
    PRIMARY KEY (request_id, deletion_id),
    CONSTRAINT "verdict must be deleted, absent, retry, release or dead" CHECK (
        verdict IN ('deleted', 'absent', 'retry', 'release', 'dead'))
) WITHOUT ROWID;

INSERT INTO outcomes_new (request_id, deletion_id, verdict, cause)
SELECT request_id, deletion_id, verdict, cause FROM outcomes;
DROP TABLE outcomes;
ALTER TABLE outcomes_new RENAME TO outcomes;

PRAGMA legacy_alter_table = OFF;
PRAGMA ignore_check_constraints = OFF;
