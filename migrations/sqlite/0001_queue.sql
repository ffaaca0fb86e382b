-- The queue. Producers write to this file with SQLite versions of their own. So everything that an INSERT runs works with
-- SQLite 3.26 and later: no STRICT, no unixepoch(), no JSON and no window functions in a DEFAULT, a CHECK or a trigger.
-- Only the view `outcomes` needs JSON, and SQLite looks into a view only when somebody reads it.
-- Times are INTEGER Unix milliseconds. SQLite prints the name of a CHECK constraint when it refuses a row.

PRAGMA application_id = 1396922192; -- 0x53435750, "SCWP": tells our file from any other SQLite database

-- There is one row per (agent, entry), ever. ON CONFLICT IGNORE makes a repeated INSERT harmless: the trigger deletions_repeat has
-- already updated the row. It also lets an upsert go on to its DO UPDATE, so that its RETURNING has the existing row;
-- RAISE(IGNORE) in the trigger would end the upsert without a row. AUTOINCREMENT never gives out an id twice, so a verdict can
-- never reach a row that was inserted in the place of a removed one.
CREATE TABLE deletions (
    id          INTEGER PRIMARY KEY ON CONFLICT IGNORE AUTOINCREMENT,
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
    -- The first request that failed as a whole with this row in it, since the last answer about the row itself.
    first_fault INTEGER,
    -- The request that showed that the row itself is at fault, because others got through.
    evidence    INTEGER,
    last_cause  TEXT,
    created_at  INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    settled_at  INTEGER,
    verified_at INTEGER,                     -- when a listing of the whole cache last did not have the entry, or NULL
    -- The label of the last wish that had one. NULL: `wishes` says nothing about this row, and the row costs nothing there.
    label       TEXT,
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
    -- The daemon adds one to it. At the highest integer, SQLite would make a floating-point number of that.
    CONSTRAINT "attempts must be an integer from 0 to 2147483647" CHECK (
        typeof(attempts) = 'integer' AND attempts BETWEEN 0 AND 2147483647),
    CONSTRAINT "due_at must be Unix milliseconds, up to the year 9999" CHECK (
        typeof(due_at) = 'integer' AND due_at BETWEEN 0 AND 253402300799999),
    -- 100000000000 milliseconds are in 1973, and as many seconds in 5138.
    CONSTRAINT "due_at must be Unix milliseconds; this looks like seconds" CHECK (due_at = 0 OR due_at >= 100000000000),
    CONSTRAINT "batch_max must be an integer from 0 to 20" CHECK (
        typeof(batch_max) = 'integer' AND batch_max BETWEEN 0 AND 20),
    CONSTRAINT "asks must be an integer from 0 to 2147483647" CHECK (
        typeof(asks) = 'integer' AND asks BETWEEN 0 AND 2147483647),
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
    -- This time comes from a clock. A machine whose clock begins in 1970 must be able to enqueue, so times in 1970 are allowed.
    CONSTRAINT "created_at must be Unix milliseconds; this looks like seconds" CHECK (
        created_at NOT BETWEEN 1000000000 AND 99999999999),
    CONSTRAINT "settled_at must be Unix milliseconds" CHECK (
        settled_at IS NULL OR (typeof(settled_at) = 'integer' AND settled_at BETWEEN 0 AND 253402300799999)),
    CONSTRAINT "settled_at must be Unix milliseconds; this looks like seconds" CHECK (
        settled_at IS NULL OR settled_at NOT BETWEEN 1000000000 AND 99999999999),
    CONSTRAINT "a pending row has no settled_at, a settled row has one" CHECK ((state = 'pending') = (settled_at IS NULL)),
    CONSTRAINT "verified_at must be Unix milliseconds" CHECK (
        verified_at IS NULL OR (typeof(verified_at) = 'integer' AND verified_at BETWEEN 0 AND 253402300799999)),
    CONSTRAINT "only a settled row has a verified_at" CHECK (verified_at IS NULL OR settled_at IS NOT NULL),
    CONSTRAINT "label must be text of 1 to 255 printable ASCII characters, with spaces only inside" CHECK (label IS NULL OR (
        typeof(label) = 'text' AND length(label) BETWEEN 1 AND 255 AND length(label) = length(CAST(label AS BLOB))
        AND label NOT GLOB '*[^ -~]*' AND label NOT GLOB ' *' AND label NOT GLOB '* ')),
    CONSTRAINT "one row per agent_id and entry_id" UNIQUE (agent_id, entry_id) ON CONFLICT IGNORE
);

-- The lanes, and the order of dispatch inside each lane. Most rows are due at once and have the same due_at: the id, which
-- SQLite has in every index, puts those in the order in which they were enqueued. With created_at in it, emptying a queue of
-- 1,000 agents takes an eighth longer. No other index may follow the state: a second one makes settling rows five to seven
-- times slower.
CREATE INDEX deletions_due ON deletions (priority, agent_id, batch_max, due_at) WHERE state = 'pending';

-- This index is small, and the way from pending to deleted does not touch it. With it, counting the dead rows does not read
-- the table.
CREATE INDEX deletions_dead ON deletions (last_cause) WHERE state = 'dead';

-- The mark by which the triggers recognise an INSERT OR REPLACE: the entry of the last INSERT that repeated one. At most one row.
CREATE TABLE repeated (
    agent_id  TEXT,
    entry_id  TEXT,
    label     TEXT,    -- of the INSERT
    wished_at INTEGER,
    row_label TEXT     -- of the row, before the INSERT
);

-- The wishes with a label, and for each its end. A row of `deletions` may serve several: it goes only with the last open one, and a
-- wish outlives its row. Triggers write this table. If a row with labels was also wished for without one, that wish has the label
-- '' here, as long as the row is pending or dead: without it, cancelling the labels would drop the row.
CREATE TABLE wishes (
    label     TEXT    NOT NULL,
    agent_id  TEXT    NOT NULL,
    entry_id  TEXT    NOT NULL,
    wished_at INTEGER NOT NULL,
    state     TEXT,    -- NULL: open
    closed_at INTEGER,
    closed_by TEXT,    -- who cancelled it, if that is known
    PRIMARY KEY (label, agent_id, entry_id),
    CONSTRAINT "state must be deleted, absent, dead or cancelled, or NULL for open" CHECK (
        state IN ('deleted', 'absent', 'dead', 'cancelled'))
) WITHOUT ROWID;

-- The wishes for one entry.
CREATE INDEX wishes_entry ON wishes (agent_id, entry_id);

-- A plain INSERT never fails on a duplicate, and a wish is never dropped.
CREATE TRIGGER deletions_repeat BEFORE INSERT ON deletions
WHEN EXISTS (SELECT 1 FROM deletions WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id)
BEGIN
    -- First, so that the trigger on this table sees the row as it was.
    DELETE FROM repeated;
    INSERT INTO repeated (agent_id, entry_id, label, wished_at, row_label)
    SELECT NEW.agent_id, NEW.entry_id, NEW.label, NEW.created_at, label FROM deletions
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id;
    -- An open row takes over a higher priority.
    UPDATE deletions SET priority = NEW.priority
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state = 'pending' AND priority < NEW.priority;
    -- An open row takes over an earlier time, too: "delete it now" after "delete it in a week". After a first attempt, due_at
    -- is the time of the next one, and a producer that repeats itself must not cancel that delay.
    UPDATE deletions SET due_at = NEW.due_at
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state = 'pending' AND NEW.due_at < due_at
        AND due_at <> created_at AND request_id IS NULL AND attempts = 0;
    -- A settled row is reopened, because somebody wants the entry gone again. Its history stays in `requests`. Rows with due_at 0
    -- go out in the order of their ids, and this id is an old one. So the time of this INSERT becomes the due time.
    UPDATE deletions SET state = 'pending', settled_at = NULL, verified_at = NULL, attempts = 0, batch_max = 20,
        due_at = CASE WHEN NEW.due_at <> 0 OR NEW.created_at < 100000000000 THEN NEW.due_at ELSE NEW.created_at END,
        asks = 0, maybe_done = 0, request_id = NULL, first_fault = NULL, evidence = NULL, last_cause = NULL,
        priority = NEW.priority, created_at = NEW.created_at,
        -- Labels whose wishes are fulfilled have no part in it. A dead row's wishes open again with it.
        label = CASE WHEN NEW.label IS NULL AND state <> 'dead' THEN NULL ELSE label END
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state <> 'pending';
END;

-- The labels of a repeated INSERT. It is a trigger of its own because an INSERT without labels then skips it: these statements
-- would make the repetition of such an INSERT a third more expensive. The conflict clause of the INSERT overrides those of
-- statements in triggers, so none of them may meet a conflict.
CREATE TRIGGER repeated_labels AFTER INSERT ON repeated
WHEN NEW.label IS NOT NULL OR NEW.row_label IS NOT NULL
BEGIN
    INSERT INTO wishes (label, agent_id, entry_id, wished_at)
    SELECT '', agent_id, entry_id, CASE WHEN NEW.label IS NULL THEN NEW.wished_at ELSE created_at END FROM deletions
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND (NEW.label IS NULL OR NEW.row_label IS NULL)
        AND (state = 'pending' OR state = 'dead')
        AND NOT EXISTS (SELECT 1 FROM wishes WHERE label = '' AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id);
    UPDATE wishes SET state = NULL, closed_at = NULL, closed_by = NULL, wished_at = NEW.wished_at
    WHERE label = NEW.label AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state IS NOT NULL;
    INSERT INTO wishes (label, agent_id, entry_id, wished_at)
    SELECT NEW.label, NEW.agent_id, NEW.entry_id, NEW.wished_at
    WHERE NEW.label IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM wishes WHERE label = NEW.label AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id);
    UPDATE deletions SET label = NEW.label
    WHERE NEW.label IS NOT NULL AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND label IS NOT NEW.label;
END;

-- INSERT OR REPLACE would put a new row, with another id, in the place of one that may be in flight, and the request's answer
-- would reach neither. A trigger cannot see the conflict clause of an INSERT. But no other INSERT that repeats an entry gets as
-- far as AFTER INSERT.
--
-- For a new row with a label, also writes the wish. If the label has that wish already, the wish's row has been removed. This is not
-- a trigger of its own, because even one that is skipped makes an INSERT some percent more expensive.
CREATE TRIGGER deletions_inserted AFTER INSERT ON deletions
WHEN NEW.label IS NOT NULL
    OR EXISTS (SELECT 1 FROM repeated WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id)
BEGIN
    SELECT RAISE(ABORT, 'INSERT OR REPLACE would replace a row that is there: use a plain INSERT, which may be repeated')
    FROM repeated WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id;
    UPDATE wishes SET state = nullif(NEW.state, 'pending'), closed_at = NEW.settled_at, closed_by = NULL,
        wished_at = NEW.created_at
    WHERE label = NEW.label AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state IS NOT NULL;
    INSERT INTO wishes (label, agent_id, entry_id, wished_at, state, closed_at)
    SELECT NEW.label, NEW.agent_id, NEW.entry_id, NEW.created_at, nullif(NEW.state, 'pending'), NEW.settled_at
    WHERE NOT EXISTS (
        SELECT 1 FROM wishes WHERE label = NEW.label AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id);
END;

-- Open wishes follow their row to its end. Dead ones follow it out of there, when somebody retries it or knows better. A fulfilled
-- wish stays fulfilled when the row is reopened.
CREATE TRIGGER deletions_ended AFTER UPDATE OF state ON deletions
WHEN OLD.label IS NOT NULL AND NEW.state <> OLD.state
BEGIN
    UPDATE wishes SET state = nullif(NEW.state, 'pending'), closed_at = NEW.settled_at
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND (state IS NULL OR state = 'dead');
    DELETE FROM wishes
    WHERE label = '' AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state <> 'dead';
END;

-- Whoever removes an open row cancels its wishes.
CREATE TRIGGER deletions_removed AFTER DELETE ON deletions
WHEN OLD.label IS NOT NULL
BEGIN
    DELETE FROM wishes WHERE label = '' AND agent_id = OLD.agent_id AND entry_id = OLD.entry_id;
    UPDATE wishes SET state = 'cancelled', closed_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    WHERE agent_id = OLD.agent_id AND entry_id = OLD.entry_id AND state IS NULL;
END;

-- Whoever cancels the last open wish for an entry removes its row. Until then, the row has the label of an open wish.
CREATE TRIGGER wishes_cancelled AFTER UPDATE OF state ON wishes
WHEN NEW.state = 'cancelled' AND OLD.state IS NULL
BEGIN
    DELETE FROM deletions
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state = 'pending' AND NOT EXISTS (
        SELECT 1 FROM wishes WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state IS NULL);
    -- If only the wish without a label is left, the row is one without labels again.
    DELETE FROM wishes
    WHERE label = '' AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND NOT EXISTS (
        SELECT 1 FROM wishes WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state IS NULL AND label <> '');
    UPDATE deletions SET label = (
        SELECT label FROM wishes WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state IS NULL AND label <> ''
        ORDER BY wished_at DESC LIMIT 1)
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND label = NEW.label;
END;

-- A label comes with an INSERT. An upsert that sets it to the NULL of a wish without a label changes nothing: the row would no
-- longer close its open wishes.
CREATE TRIGGER deletions_relabelled AFTER UPDATE OF label ON deletions
WHEN NEW.label IS NOT OLD.label AND CASE WHEN NEW.label IS NULL
    THEN EXISTS (SELECT 1 FROM wishes WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state IS NULL)
    ELSE NOT EXISTS (
        SELECT 1 FROM wishes WHERE label = NEW.label AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id) END
BEGIN
    SELECT RAISE(ABORT, 'the label of a deletion comes with an INSERT: insert the entry again with the label') WHERE NEW.label IS NOT NULL;
    UPDATE deletions SET label = OLD.label WHERE id = NEW.id;
END;

-- Clears the mark if the repeated row has been removed since: this INSERT repeats nothing.
CREATE TRIGGER deletions_repeat_over BEFORE INSERT ON deletions
WHEN EXISTS (SELECT 1 FROM repeated WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id)
    AND NOT EXISTS (SELECT 1 FROM deletions WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id)
BEGIN
    DELETE FROM repeated;
END;

-- In a BEFORE trigger, NEW.id is -1 if the INSERT gives no id.
CREATE TRIGGER deletions_id_given BEFORE INSERT ON deletions
WHEN NEW.id > 0
BEGIN
    SELECT CASE
        -- AUTOINCREMENT gives out the highest id so far plus one. After a row with the highest possible id, every INSERT
        -- would fail with "database or disk is full". 2^53 is more than will ever be enqueued.
        WHEN NEW.id > 9007199254740992
        THEN RAISE(ABORT, 'this id leaves no room for others: leave the id out of the INSERT')
        -- OR REPLACE would remove the row that has this id.
        WHEN EXISTS (
            SELECT 1 FROM deletions WHERE id = NEW.id AND (agent_id <> NEW.agent_id OR entry_id <> NEW.entry_id))
        THEN RAISE(ABORT, 'this id belongs to another deletion: leave the id out of the INSERT')
    END;
END;

-- INSERT OR IGNORE silently drops a row that a CHECK refuses. So this trigger checks each INSERT as well, with the conditions of
-- the CHECKs. A test holds that. SQLite builds a table for each IN that it evaluates, so the conditions are in a form in which a
-- usual row evaluates none.
CREATE TRIGGER deletions_checked BEFORE INSERT ON deletions
BEGIN
    SELECT CASE
        WHEN NEW.id < 1 AND NEW.id <> -1 THEN RAISE(ABORT, 'id must be a positive integer')
        WHEN (typeof(NEW.agent_id) = 'text' AND length(NEW.agent_id) BETWEEN 1 AND 255
            AND length(NEW.agent_id) = length(CAST(NEW.agent_id AS BLOB)) AND NEW.agent_id NOT GLOB '*[^!-~]*') IS NOT TRUE
        THEN RAISE(ABORT, 'agent_id must be text of 1 to 255 printable ASCII characters without spaces')
        WHEN NEW.agent_id GLOB '*[/\]*' OR NEW.agent_id = '.' OR NEW.agent_id = '..' OR NEW.agent_id = '*'
        THEN RAISE(ABORT, 'agent_id must be one URL path segment: no slash, no backslash, not ., .. or *')
        WHEN (typeof(NEW.entry_id) = 'text' AND length(NEW.entry_id) BETWEEN 1 AND 255
            AND length(NEW.entry_id) = length(CAST(NEW.entry_id AS BLOB)) AND NEW.entry_id NOT GLOB '*[^!-~]*') IS NOT TRUE
        THEN RAISE(ABORT, 'entry_id must be text of 1 to 255 printable ASCII characters without spaces')
        WHEN typeof(NEW.priority) <> 'integer' THEN RAISE(ABORT, 'priority must be an integer')
        WHEN (NEW.state = 'pending' OR NEW.state IN ('deleted', 'absent', 'dead')) IS NOT TRUE
        THEN RAISE(ABORT, 'state must be pending, deleted, absent or dead')
        WHEN typeof(NEW.attempts) <> 'integer' OR NEW.attempts NOT BETWEEN 0 AND 2147483647
        THEN RAISE(ABORT, 'attempts must be an integer from 0 to 2147483647')
        WHEN typeof(NEW.due_at) <> 'integer' OR NEW.due_at NOT BETWEEN 0 AND 253402300799999
        THEN RAISE(ABORT, 'due_at must be Unix milliseconds, up to the year 9999')
        WHEN NEW.due_at <> 0 AND NEW.due_at < 100000000000
        THEN RAISE(ABORT, 'due_at must be Unix milliseconds; this looks like seconds')
        WHEN typeof(NEW.batch_max) <> 'integer' OR NEW.batch_max NOT BETWEEN 0 AND 20
        THEN RAISE(ABORT, 'batch_max must be an integer from 0 to 20')
        WHEN typeof(NEW.asks) <> 'integer' OR NEW.asks NOT BETWEEN 0 AND 2147483647
        THEN RAISE(ABORT, 'asks must be an integer from 0 to 2147483647')
        WHEN typeof(NEW.maybe_done) <> 'integer' OR NEW.maybe_done NOT BETWEEN 0 AND 1
        THEN RAISE(ABORT, 'maybe_done must be 0 or 1')
        WHEN NEW.request_id IS NOT NULL AND typeof(NEW.request_id) <> 'integer' THEN RAISE(ABORT, 'request_id must be an integer')
        WHEN NEW.first_fault IS NOT NULL AND (typeof(NEW.first_fault) <> 'integer' OR NEW.first_fault < 1)
        THEN RAISE(ABORT, 'first_fault must be a positive integer, or NULL')
        WHEN NEW.evidence IS NOT NULL AND (typeof(NEW.evidence) <> 'integer' OR NEW.evidence < 1)
        THEN RAISE(ABORT, 'evidence must be a positive integer, or NULL')
        WHEN NEW.last_cause IS NOT NULL AND NEW.last_cause NOT IN (
            'api_failed', 'api_contradicted', 'api_silent', 'garbled', 'rejected', 'unauthorized', 'forbidden',
            'unknown_agent', 'contract', 'throttled', 'server_error', 'lost', 'unreachable',
            'untrusted')
        THEN RAISE(ABORT, 'last_cause must be a known cause')
        WHEN typeof(NEW.created_at) <> 'integer' OR NEW.created_at NOT BETWEEN 0 AND 253402300799999
        THEN RAISE(ABORT, 'created_at must be Unix milliseconds, up to the year 9999')
        WHEN NEW.created_at BETWEEN 1000000000 AND 99999999999
        THEN RAISE(ABORT, 'created_at must be Unix milliseconds; this looks like seconds')
        WHEN NEW.settled_at IS NOT NULL
            AND (typeof(NEW.settled_at) <> 'integer' OR NEW.settled_at NOT BETWEEN 0 AND 253402300799999)
        THEN RAISE(ABORT, 'settled_at must be Unix milliseconds')
        WHEN NEW.settled_at BETWEEN 1000000000 AND 99999999999
        THEN RAISE(ABORT, 'settled_at must be Unix milliseconds; this looks like seconds')
        WHEN (NEW.state = 'pending') <> (NEW.settled_at IS NULL)
        THEN RAISE(ABORT, 'a pending row has no settled_at, a settled row has one')
        WHEN NEW.verified_at IS NOT NULL
            AND (typeof(NEW.verified_at) <> 'integer' OR NEW.verified_at NOT BETWEEN 0 AND 253402300799999)
        THEN RAISE(ABORT, 'verified_at must be Unix milliseconds')
        WHEN NEW.verified_at IS NOT NULL AND NEW.settled_at IS NULL
        THEN RAISE(ABORT, 'only a settled row has a verified_at')
        WHEN NEW.label IS NOT NULL AND (typeof(NEW.label) <> 'text' OR length(NEW.label) NOT BETWEEN 1 AND 255
            OR length(NEW.label) <> length(CAST(NEW.label AS BLOB)) OR NEW.label GLOB '*[^ -~]*' OR NEW.label GLOB ' *'
            OR NEW.label GLOB '* ')
        THEN RAISE(ABORT, 'label must be text of 1 to 255 printable ASCII characters, with spaces only inside')
    END;
END;

-- Node, pandas, Excel and others keep numbers as doubles. 4711 becomes the text 4711.0, and 9007199254740993 becomes
-- 9.00719925474099e+15: IDs that nobody meant. The trigger refuses digits that are followed by a point and only zeros, and digits
-- with an exponent that has a plus sign or follows a point (1e5 may be a hexadecimal ID). Some programs write a comma for the
-- point.
CREATE TRIGGER deletions_floating BEFORE INSERT ON deletions
WHEN NEW.agent_id GLOB '[-+0-9]*[.,eE]*' OR NEW.entry_id GLOB '[-+0-9]*[.,eE]*'
BEGIN
    SELECT RAISE(ABORT, 'agent_id or entry_id is a number in floating-point notation, and may have been another: bind it as text')
    FROM (
        SELECT upper(replace(ltrim(NEW.agent_id, '+-'), ',', '.')) AS number
        UNION ALL SELECT upper(replace(ltrim(NEW.entry_id, '+-'), ',', '.'))
    )
    WHERE number NOT GLOB '*.*.*' AND number NOT GLOB '*E*E*' AND number NOT GLOB '*+*+*'
        AND replace(replace(replace(number, 'E', ''), '+', ''), '.', '') NOT GLOB '*[^0-9]*'
        AND (rtrim(number, '0') GLOB '[0-9]*.' OR number GLOB '[0-9]*E+[0-9]*' OR number GLOB '[0-9]*.*E[0-9]*');
END;

-- The verdict on a row is written by its id. With another entry in the row, the verdict would be about an entry that was not sent.
CREATE TRIGGER deletions_renamed BEFORE UPDATE OF id, agent_id, entry_id ON deletions
WHEN NEW.id IS NOT OLD.id OR NEW.agent_id IS NOT OLD.agent_id OR NEW.entry_id IS NOT OLD.entry_id
BEGIN
    SELECT RAISE(ABORT, 'id, agent_id and entry_id of a deletion stay as they are: delete the row and insert another');
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
    retried        INTEGER,          -- includes released rows
    dead           INTEGER,
    fault          TEXT,             -- the cause, if the request failed as a whole or deleted nothing
    detail         TEXT,             -- the API's message or the network's error
    remote_id      TEXT,             -- the correlation ID that came back
    -- The verdicts on its rows: [{"verdict": …, "cause": …, "deletion_ids": […]}, …]. Without deletion_ids, a verdict is about all
    -- rows. They are here because a history row for each deletion made a deletion a sixth more expensive.
    verdicts       TEXT,
    CONSTRAINT "kind must be bulk or single" CHECK (kind IN ('bulk', 'single')),
    CONSTRAINT "size must be from 1 to 20" CHECK (size BETWEEN 1 AND 20),
    CONSTRAINT "fault must be a known cause" CHECK (fault IS NULL OR fault IN (
        'api_failed', 'api_contradicted', 'api_silent', 'garbled', 'rejected', 'unauthorized', 'forbidden',
        'unknown_agent', 'contract', 'throttled', 'server_error', 'lost', 'unreachable',
        'untrusted'))
);

-- This index has one entry per call in flight.
CREATE INDEX requests_unanswered ON requests (id) WHERE answered_at IS NULL;

-- The verdict of each request on each of its rows. The view leaves out verdicts and manifests that are no valid JSON, so that they
-- do not keep anybody from reading the others.
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
    probed_at INTEGER,                    -- when a request last met the hold's cause
    repeats   INTEGER NOT NULL DEFAULT 0, -- how often in a row the daemon has placed the hold, which doubles each time
    why       TEXT,                       -- the reason that a person gave, or NULL
    PRIMARY KEY (scope, cause),
    CONSTRAINT "scope must be * or an agent_id" CHECK (
        typeof(scope) = 'text' AND length(scope) BETWEEN 1 AND 255
        AND length(scope) = length(CAST(scope AS BLOB)) AND scope NOT GLOB '*[^!-~]*'),
    CONSTRAINT "cause must be operator, verify or a cause the daemon holds for" CHECK (cause IN (
        'operator', 'verify', 'api_failed', 'api_contradicted', 'api_silent', 'garbled', 'rejected', 'unauthorized', 'forbidden',
        'unknown_agent', 'contract', 'throttled', 'server_error', 'lost', 'unreachable',
        'untrusted')),
    CONSTRAINT "since_at must be Unix milliseconds" CHECK (
        typeof(since_at) = 'integer' AND since_at BETWEEN 0 AND 253402300799999),
    -- Only for a person's hold: the daemon must be able to place a hold even if its clock begins in 1970.
    CONSTRAINT "since_at must be Unix milliseconds; this looks like seconds" CHECK (
        cause <> 'operator' OR since_at NOT BETWEEN 1000000000 AND 99999999999),
    CONSTRAINT "until_at must be Unix milliseconds, or NULL for until the row is deleted" CHECK (
        until_at IS NULL OR (typeof(until_at) = 'integer' AND until_at BETWEEN 0 AND 253402300799999)),
    CONSTRAINT "until_at must be Unix milliseconds; this looks like seconds" CHECK (
        cause <> 'operator' OR until_at IS NULL OR until_at = 0 OR until_at >= 100000000000),
    CONSTRAINT "probed_at must be Unix milliseconds, or NULL" CHECK (
        probed_at IS NULL OR (typeof(probed_at) = 'integer' AND probed_at BETWEEN 0 AND 253402300799999)),
    CONSTRAINT "repeats must be an integer of 0 or more" CHECK (typeof(repeats) = 'integer' AND repeats >= 0),
    CONSTRAINT "why must be text of at most 500 characters without control characters, or NULL" CHECK (
        why IS NULL OR (typeof(why) = 'text' AND length(why) <= 500 AND instr(CAST(why AS BLOB), x'00') = 0
            AND why NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*'))
);

-- A second pause of the same scope for the same cause takes the place of the first, whatever ON CONFLICT says: OR IGNORE
-- would keep the old one, and say nothing.
CREATE TRIGGER holds_repeat BEFORE INSERT ON holds
WHEN EXISTS (SELECT 1 FROM holds WHERE scope = NEW.scope AND cause = NEW.cause)
BEGIN
    DELETE FROM holds WHERE scope = NEW.scope AND cause = NEW.cause;
END;

-- For INSERT OR IGNORE, as deletions_checked is.
CREATE TRIGGER holds_checked BEFORE INSERT ON holds
BEGIN
    SELECT CASE
        WHEN (typeof(NEW.scope) = 'text' AND length(NEW.scope) BETWEEN 1 AND 255
            AND length(NEW.scope) = length(CAST(NEW.scope AS BLOB)) AND NEW.scope NOT GLOB '*[^!-~]*') IS NOT TRUE
        THEN RAISE(ABORT, 'scope must be * or an agent_id')
        WHEN (NEW.cause IN (
            'operator', 'verify', 'api_failed', 'api_contradicted', 'api_silent', 'garbled', 'rejected', 'unauthorized', 'forbidden',
            'unknown_agent', 'contract', 'throttled', 'server_error', 'lost', 'unreachable',
            'untrusted')) IS NOT TRUE
        THEN RAISE(ABORT, 'cause must be operator, verify or a cause the daemon holds for')
        WHEN typeof(NEW.since_at) <> 'integer' OR NEW.since_at NOT BETWEEN 0 AND 253402300799999
        THEN RAISE(ABORT, 'since_at must be Unix milliseconds')
        WHEN NEW.cause = 'operator' AND NEW.since_at BETWEEN 1000000000 AND 99999999999
        THEN RAISE(ABORT, 'since_at must be Unix milliseconds; this looks like seconds')
        WHEN NEW.until_at IS NOT NULL
            AND (typeof(NEW.until_at) <> 'integer' OR NEW.until_at NOT BETWEEN 0 AND 253402300799999)
        THEN RAISE(ABORT, 'until_at must be Unix milliseconds, or NULL for until the row is deleted')
        WHEN NEW.cause = 'operator' AND NEW.until_at <> 0 AND NEW.until_at < 100000000000
        THEN RAISE(ABORT, 'until_at must be Unix milliseconds; this looks like seconds')
        WHEN NEW.probed_at IS NOT NULL
            AND (typeof(NEW.probed_at) <> 'integer' OR NEW.probed_at NOT BETWEEN 0 AND 253402300799999)
        THEN RAISE(ABORT, 'probed_at must be Unix milliseconds, or NULL')
        WHEN typeof(NEW.repeats) <> 'integer' OR NEW.repeats < 0
        THEN RAISE(ABORT, 'repeats must be an integer of 0 or more')
        WHEN (NEW.why IS NULL OR (typeof(NEW.why) = 'text' AND length(NEW.why) <= 500
            AND instr(CAST(NEW.why AS BLOB), x'00') = 0
            AND NEW.why NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*')) IS NOT TRUE
        THEN RAISE(ABORT, 'why must be text of at most 500 characters without control characters, or NULL')
    END;
END;

-- One row per act of an operator: a hold, a release, a retry, a cancel, a verify, or an enqueue (of more than one row, or with
-- a label), by a command.
-- The row is written in the transaction of the act. An act of several transactions updates it in each of them: if the command is
-- killed, `rows` is what was done, and `ended` stays 0. Changes that somebody makes with SQL leave no row.
CREATE TABLE acts (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    acted_at   INTEGER NOT NULL,
    act        TEXT    NOT NULL,
    operator   TEXT    NOT NULL,           -- who did it, as the command was told: a statement, and no proof
    scope      TEXT,                       -- * or an agent_id; NULL: several agents
    rows       INTEGER NOT NULL,           -- rows of deletions changed so far; of a hold or release, rows of holds; with a label, wishes
    detail     TEXT,                       -- what was chosen, and the reason
    updated_at INTEGER NOT NULL,           -- the time of the last transaction
    ended      INTEGER NOT NULL DEFAULT 0, -- 1: the command has done all of it
    logged     INTEGER NOT NULL DEFAULT 0, -- 1: a daemon has logged it
    CONSTRAINT "act must be hold, release, retry, cancel, enqueue or verify" CHECK (
        act IN ('hold', 'release', 'retry', 'cancel', 'enqueue', 'verify')),
    CONSTRAINT "operator must be text of 1 to 100 characters without control characters" CHECK (
        typeof(operator) = 'text' AND length(operator) BETWEEN 1 AND 100 AND instr(CAST(operator AS BLOB), x'00') = 0
        AND operator NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*'),
    CONSTRAINT "scope must be * or an agent_id, or NULL" CHECK (
        scope IS NULL OR (typeof(scope) = 'text' AND length(scope) BETWEEN 1 AND 255
            AND length(scope) = length(CAST(scope AS BLOB)) AND scope NOT GLOB '*[^!-~]*')),
    CONSTRAINT "rows must be an integer of 0 or more" CHECK (typeof(rows) = 'integer' AND rows >= 0),
    CONSTRAINT "detail must be text of at most 1000 characters without control characters, or NULL" CHECK (
        detail IS NULL OR (typeof(detail) = 'text' AND length(detail) <= 1000 AND instr(CAST(detail AS BLOB), x'00') = 0
            AND detail NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*')),
    CONSTRAINT "acted_at must be Unix milliseconds" CHECK (
        typeof(acted_at) = 'integer' AND acted_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "updated_at must be Unix milliseconds" CHECK (
        typeof(updated_at) = 'integer' AND updated_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "ended must be 0 or 1" CHECK (typeof(ended) = 'integer' AND ended BETWEEN 0 AND 1),
    CONSTRAINT "logged must be 0 or 1" CHECK (typeof(logged) = 'integer' AND logged BETWEEN 0 AND 1)
);

-- This index has one entry per act that the daemon is still to log.
CREATE INDEX acts_unlogged ON acts (id) WHERE logged = 0;

-- The daemon that works on the queue, for `sweeper status` and for the next daemon. It writes this one row at its start, and again
-- with its next write after its rate or another setting in this row has changed. The row outlives its writer: only the lock beside
-- the file tells whether the daemon still runs.
CREATE TABLE daemon (
    id                  INTEGER PRIMARY KEY,
    pid                 INTEGER NOT NULL,
    version             TEXT    NOT NULL,
    started_at          INTEGER NOT NULL,
    requests_per_second REAL    NOT NULL, -- the current rate, below the configured one if the API bears less
    rate_ceiling        REAL    NOT NULL, -- rate_limit.requests_per_second
    rate_why            TEXT    NOT NULL, -- ceiling; found: the API throttled more; told: by its headers; learnt: found before the start
    concurrency         INTEGER NOT NULL, -- the current limit of requests in flight, likewise
    concurrency_ceiling INTEGER NOT NULL, -- delivery.concurrency
    concurrency_why     TEXT    NOT NULL, -- ceiling; throttled: the API throttles more; latency: answers are slow
    batch_size          INTEGER NOT NULL, -- delivery.batch_size, delivery.linger, retry.base_delay and retry.max_delay
    linger_ms           INTEGER NOT NULL,
    retry_base_ms       INTEGER NOT NULL,
    retry_max_ms        INTEGER NOT NULL,
    learnt_rate         REAL,             -- what a restart goes on from: requests per second, or NULL
    learnt_even         INTEGER,          -- 1: requests are spaced evenly, because the API throttled a burst
    learnt_concurrency  INTEGER,          -- the most requests in flight that the API allows, or NULL
    learnt_at           INTEGER,          -- when this was last in effect while the API answered; NULL: nothing was learnt
    updated_at          INTEGER NOT NULL,
    CONSTRAINT "there is one daemon" CHECK (id = 1)
);
