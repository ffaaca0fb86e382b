-- The queue, in the schema `sweeper`, for PostgreSQL 14 and later. One daemon at a time writes, the leader; producers append.
-- Times are Unix milliseconds. PostgreSQL prints the name of a CHECK constraint when it refuses a row, and cuts names off after 63
-- bytes. All texts are compared byte by byte (COLLATE "C"), as in SQLite.

-- Producers name this table, and a row without a state becomes one of `deletions_new`. The leader moves it to `deletions_known`.
CREATE TABLE deletions (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    agent_id    text COLLATE "C" NOT NULL,
    entry_id    text COLLATE "C" NOT NULL,
    priority    bigint   NOT NULL DEFAULT 0,
    state       text COLLATE "C" NOT NULL DEFAULT 'new',
    attempts    integer  NOT NULL DEFAULT 0,
    due_at      bigint   NOT NULL DEFAULT 0,
    batch_max   smallint NOT NULL DEFAULT 20,   -- the most rows that its next request may have; 0: a single-entry DELETE
    asks        integer  NOT NULL DEFAULT 0,    -- single-entry DELETEs in a row that told nothing about the entry
    maybe_done  boolean  NOT NULL DEFAULT false, -- an attempt may have deleted the entry unseen
    request_id  bigint,                         -- the last request that has settled this row since it was opened
    -- The first request that failed as a whole with this row in it, since the last answer about the row itself.
    first_fault bigint,
    -- The request that showed that the row itself is at fault, because others got through.
    evidence    bigint,
    last_cause  text COLLATE "C",
    created_at  bigint   NOT NULL DEFAULT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    settled_at  bigint,
    verified_at bigint,                         -- when a listing of the whole cache last did not have the entry, or NULL
    -- The label of the last wish that had one. NULL: `wishes` says nothing about this row, and the row costs nothing there.
    label       text COLLATE "C"
) PARTITION BY LIST (state);

-- The inbox: what producers wrote and the leader has not taken in yet. It has no index and no UNIQUE, so no producer ever waits for
-- another one or for the leader. The CHECKs on what producers write are here alone: on `deletions_known`, PostgreSQL would run them
-- at each UPDATE. A bound in a regular expression ({1,255}) would cost fifty times as much as length().
CREATE TABLE deletions_new PARTITION OF deletions (
    CONSTRAINT "agent_id must be 1 to 255 printable ASCII, without spaces" CHECK (
        length(agent_id) BETWEEN 1 AND 255 AND agent_id !~ '[^!-~]'),
    CONSTRAINT "agent_id must be one URL path segment, not ., .. or *" CHECK (
        agent_id !~ '[/\\]' AND agent_id NOT IN ('.', '..', '*')), -- '*' is the scope of a hold on everything
    CONSTRAINT "entry_id must be 1 to 255 printable ASCII, without spaces" CHECK (
        length(entry_id) BETWEEN 1 AND 255 AND entry_id !~ '[^!-~]'),
    -- Node, pandas, Excel and others keep numbers as doubles. 4711 becomes the text 4711.0, and 9007199254740993 becomes
    -- 9.00719925474099e+15: IDs that nobody meant. 1e5 may be a hexadecimal ID. Some programs write a comma for the point.
    CONSTRAINT "agent_id and entry_id must not be floating-point numbers" CHECK (
        agent_id !~ '^[-+]*[0-9]+([.,]0*|[.,][0-9]*[eE][+]?[0-9]+|[eE][+][0-9]+)$'
        AND entry_id !~ '^[-+]*[0-9]+([.,]0*|[.,][0-9]*[eE][+]?[0-9]+|[eE][+][0-9]+)$'),
    CONSTRAINT "due_at must be Unix milliseconds, up to the year 9999" CHECK (due_at BETWEEN 0 AND 253402300799999),
    -- 100000000000 milliseconds are in 1973, and as many seconds in 5138.
    CONSTRAINT "due_at must be Unix milliseconds; this looks like seconds" CHECK (due_at = 0 OR due_at >= 100000000000),
    CONSTRAINT "created_at must be Unix milliseconds, up to the year 9999" CHECK (created_at BETWEEN 0 AND 253402300799999),
    -- This time comes from a clock. A machine whose clock begins in 1970 must be able to enqueue, so times in 1970 are allowed.
    CONSTRAINT "created_at is in milliseconds; this looks like seconds" CHECK (
        created_at NOT BETWEEN 1000000000 AND 99999999999),
    CONSTRAINT "label must be 1 to 255 printable ASCII, spaces only inside" CHECK (
        length(label) BETWEEN 1 AND 255 AND label !~ '[^ -~]' AND btrim(label) = label)
) FOR VALUES IN ('new')
    WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_threshold = -1);

-- One row per (agent, entry), ever. Only the leader and operators write here.
CREATE TABLE deletions_known PARTITION OF deletions (
    CONSTRAINT "a pending row has no settled_at, a settled row has one" CHECK ((state = 'pending') = (settled_at IS NULL)),
    CONSTRAINT "verified_at must be Unix milliseconds" CHECK (verified_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "only a settled row has a verified_at" CHECK (verified_at IS NULL OR settled_at IS NOT NULL),
    CONSTRAINT "attempts must be 0 or more" CHECK (attempts >= 0),
    CONSTRAINT "batch_max must be from 0 to 20" CHECK (batch_max BETWEEN 0 AND 20),
    CONSTRAINT "asks must be 0 or more" CHECK (asks >= 0),
    CONSTRAINT "due_at is in milliseconds, up to the year 9999; 0: at once" CHECK (due_at BETWEEN 0 AND 253402300799999),
    PRIMARY KEY (id),
    CONSTRAINT "one row per agent_id and entry_id" UNIQUE (agent_id, entry_id)
) FOR VALUES IN ('pending', 'deleted', 'absent', 'dead')
    WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);

-- The lanes, and the order of dispatch inside each lane. Rows that are due at once have the same due_at, and go in the order of
-- their ids.
CREATE INDEX deletions_due ON deletions_known (priority, agent_id, batch_max, due_at, id) WHERE state = 'pending';

-- This index is small, and the way from pending to deleted does not touch it.
CREATE INDEX deletions_dead ON deletions_known (last_cause, id) WHERE state = 'dead';

-- One row per HTTP request, committed before the call. A row without answered_at is in flight, or was sent by a daemon that
-- died. The leader gives out the ids.
CREATE TABLE requests (
    id             bigint PRIMARY KEY,
    correlation_id uuid     NOT NULL, -- what we send as X-PolyAI-Correlation-Id
    agent_id       text COLLATE "C" NOT NULL,
    kind           text COLLATE "C" NOT NULL DEFAULT 'bulk', -- single: a single-entry DELETE
    deletion_ids   bigint[] NOT NULL, -- the manifest
    size           smallint NOT NULL, -- the number of those ids
    epoch          bigint   NOT NULL DEFAULT 0, -- that of the leader who claimed it
    claimed_at     bigint   NOT NULL,
    answered_at    bigint,
    status         smallint,          -- HTTP status; NULL if there was none
    deleted        smallint,          -- deleted, absent, retried, dead: how many rows got that verdict
    absent         smallint,
    retried        smallint,          -- includes released rows
    dead           smallint,
    fault          text COLLATE "C",  -- the cause, if the request failed as a whole or deleted nothing
    detail         text,              -- the API's message or the network's error
    remote_id      text,              -- the correlation ID that came back
    -- The verdicts on its rows: [{"verdict": …, "cause": …, "deletion_ids": […]}, …]. Without deletion_ids, a verdict is about all
    -- rows.
    verdicts       jsonb,
    CONSTRAINT "kind must be bulk or single" CHECK (kind IN ('bulk', 'single')),
    CONSTRAINT "size must be from 1 to 20" CHECK (size BETWEEN 1 AND 20)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- This index has one entry per call in flight.
CREATE INDEX requests_unanswered ON requests (id) WHERE answered_at IS NULL;

-- The verdict of each request on each of its rows.
CREATE VIEW outcomes AS
SELECT requests.id AS request_id, row.id AS deletion_id, given->>'verdict' AS verdict, given->>'cause' AS cause
FROM requests
CROSS JOIN LATERAL jsonb_array_elements(requests.verdicts) AS given
CROSS JOIN LATERAL (
    SELECT jsonb_array_elements_text(given->'deletion_ids')::bigint AS id WHERE given ? 'deletion_ids'
    UNION ALL SELECT unnest(requests.deletion_ids) WHERE NOT given ? 'deletion_ids'
) AS row;

-- Pauses. An INSERT by hand pauses '*' or one agent until until_at (NULL: until the row is deleted).
CREATE TABLE holds (
    scope     text COLLATE "C" NOT NULL,
    cause     text COLLATE "C" NOT NULL DEFAULT 'operator',
    since_at  bigint NOT NULL DEFAULT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    until_at  bigint,
    probed_at bigint,                    -- when a request last met the hold's cause
    repeats   bigint NOT NULL DEFAULT 0, -- how often in a row the daemon has placed the hold, which doubles each time
    why       text,                      -- the reason that a person gave, or NULL
    PRIMARY KEY (scope, cause),
    CONSTRAINT "scope must be * or an agent_id" CHECK (length(scope) BETWEEN 1 AND 255 AND scope !~ '[^!-~]'),
    CONSTRAINT "cause must be operator, verify or a cause the daemon holds for" CHECK (cause IN (
        'operator', 'verify', 'api_failed', 'api_contradicted', 'api_silent', 'garbled', 'rejected', 'unauthorized', 'forbidden',
        'unknown_agent', 'contract', 'throttled', 'server_error', 'lost', 'unreachable', 'untrusted')),
    CONSTRAINT "since_at must be Unix milliseconds" CHECK (since_at BETWEEN 0 AND 253402300799999),
    -- Only for a person's hold: the daemon must be able to place a hold even if its clock begins in 1970.
    CONSTRAINT "since_at must be Unix milliseconds; this looks like seconds" CHECK (
        cause <> 'operator' OR since_at NOT BETWEEN 1000000000 AND 99999999999),
    CONSTRAINT "until_at must be Unix milliseconds, or NULL for no end" CHECK (until_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "until_at must be Unix milliseconds; this looks like seconds" CHECK (
        cause <> 'operator' OR until_at = 0 OR until_at >= 100000000000),
    CONSTRAINT "probed_at must be Unix milliseconds, or NULL" CHECK (probed_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "repeats must be 0 or more" CHECK (repeats >= 0),
    CONSTRAINT "why must be at most 500 characters, without control ones" CHECK (
        length(why) <= 500 AND why !~ '[\u0001-\u001f\u007f-\u009f]')
);

-- The wishes with a label, and for each its end. A row of `deletions` may serve several: it goes only with the last open one, and a
-- wish outlives its row. The leader and triggers write this table. If a row with labels was also wished for without one, that wish
-- has the label '' here, as long as the row is pending or dead: without it, cancelling the labels would drop the row.
CREATE TABLE wishes (
    label     text COLLATE "C" NOT NULL,
    agent_id  text COLLATE "C" NOT NULL,
    entry_id  text COLLATE "C" NOT NULL,
    wished_at bigint NOT NULL,
    state     text COLLATE "C", -- NULL: open
    closed_at bigint,
    closed_by text,             -- who cancelled it, if that is known
    PRIMARY KEY (label, agent_id, entry_id),
    CONSTRAINT "state must be deleted, absent, dead or cancelled, or NULL" CHECK (
        state IN ('deleted', 'absent', 'dead', 'cancelled'))
);

-- The wishes for one entry.
CREATE INDEX wishes_entry ON wishes (agent_id, entry_id);

-- One row per act of an operator: a hold, a release, a retry, a cancel, a verify, or an enqueue (of more than one row, or with
-- a label), by a command.
-- An act of several transactions updates its row in each of them: if the command is killed, `rows` is what was done, and `ended` stays
-- false. Changes that somebody makes with SQL leave no row.
CREATE TABLE acts (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    acted_at   bigint  NOT NULL,
    act        text COLLATE "C" NOT NULL,
    operator   text    NOT NULL,               -- who did it, as the command was told: a statement, and no proof
    scope      text COLLATE "C",               -- * or an agent_id; NULL: several agents
    rows       bigint  NOT NULL,               -- rows changed so far; of a hold or release, rows of holds; with a label, wishes
    detail     text,                           -- what was chosen, and the reason
    updated_at bigint  NOT NULL,               -- the time of the last transaction
    ended      boolean NOT NULL DEFAULT false, -- the command has done all of it
    logged     boolean NOT NULL DEFAULT false, -- a daemon has logged it
    CONSTRAINT "act must be hold, release, retry, cancel, enqueue or verify" CHECK (
        act IN ('hold', 'release', 'retry', 'cancel', 'enqueue', 'verify')),
    CONSTRAINT "operator must be 1 to 100 characters, no control characters" CHECK (
        length(operator) BETWEEN 1 AND 100 AND operator !~ '[\u0001-\u001f\u007f-\u009f]'),
    CONSTRAINT "scope must be * or an agent_id, or NULL" CHECK (length(scope) BETWEEN 1 AND 255 AND scope !~ '[^!-~]'),
    CONSTRAINT "rows must be 0 or more" CHECK (rows >= 0),
    CONSTRAINT "detail must be up to 1000 characters, no control characters" CHECK (
        length(detail) <= 1000 AND detail !~ '[\u0001-\u001f\u007f-\u009f]'),
    CONSTRAINT "acted_at must be Unix milliseconds" CHECK (acted_at BETWEEN 0 AND 253402300799999),
    CONSTRAINT "updated_at must be Unix milliseconds" CHECK (updated_at BETWEEN 0 AND 253402300799999)
);

-- This index has one entry per act that the daemon is still to log.
CREATE INDEX acts_unlogged ON acts (id) WHERE NOT logged;

-- The daemon that works on the queue, for `sweeper status` and for the next daemon. It writes this one row at its start, and again
-- with its next write after its rate or another setting in this row has changed. The row outlives its writer: only the advisory lock
-- tells who leads.
CREATE TABLE daemon (
    one                 boolean PRIMARY KEY DEFAULT true,
    pid                 bigint           NOT NULL,
    version             text             NOT NULL,
    started_at          bigint           NOT NULL,
    requests_per_second double precision NOT NULL, -- the current rate, below the configured one if the API bears less
    rate_ceiling        double precision NOT NULL, -- rate_limit.requests_per_second
    rate_why            text             NOT NULL, -- ceiling; found: the API throttled more; told: by its headers; learnt: found before the start
    concurrency         bigint           NOT NULL, -- the current limit of requests in flight, likewise
    concurrency_ceiling bigint           NOT NULL, -- delivery.concurrency
    concurrency_why     text             NOT NULL, -- ceiling; throttled: the API throttles more; latency: answers are slow
    batch_size          smallint         NOT NULL, -- delivery.batch_size, delivery.linger, retry.base_delay and retry.max_delay
    linger_ms           bigint           NOT NULL,
    retry_base_ms       bigint           NOT NULL,
    retry_max_ms        bigint           NOT NULL,
    learnt_rate         double precision,          -- what a restart goes on from: requests per second, or NULL
    learnt_even         boolean,                   -- requests are spaced evenly, because the API throttled a burst
    learnt_concurrency  bigint,                    -- the most requests in flight that the API allows, or NULL
    learnt_at           bigint,                    -- when this was last in effect while the API answered; NULL: nothing was learnt
    updated_at          bigint           NOT NULL,
    epoch               bigint           NOT NULL, -- in which it leads: the row of an earlier epoch is a former leader's
    CONSTRAINT "there is one daemon" CHECK (one)
);

-- What leaders hand on to each other, and what the advisory lock is taken on. One row.
CREATE TABLE leadership (
    one          boolean PRIMARY KEY DEFAULT true,
    epoch        bigint NOT NULL DEFAULT 0, -- the number of times that somebody became the leader
    last_request bigint NOT NULL DEFAULT 0, -- no id of a request up to this one is given out again, although its row was pruned
    CONSTRAINT "there is one leadership" CHECK (one)
);
INSERT INTO leadership DEFAULT VALUES;

-- Somebody other than the leader has changed rows that the leader keeps in memory: one row for each statement. The leader reads and
-- removes them, and claims nothing while there are any of another table than `acts`. Producers write none.
CREATE TABLE edits (
    relation  text COLLATE "C" NOT NULL, -- the table
    edited_at bigint NOT NULL DEFAULT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_insert_threshold = -1);

-- SECURITY DEFINER: who may change a hold need not have rights on `edits`.
CREATE FUNCTION edited() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = sweeper, pg_temp AS $$
BEGIN
    INSERT INTO edits (relation) VALUES (TG_TABLE_NAME);
    RETURN NULL;
END $$;

-- Whoever changes or removes rows calls this first in the transaction. It waits until the leader's turn that is under way is
-- committed, and keeps the next turn out, and others who call this, until the transaction ends. So it is exact which rows are in
-- flight, and a row that is removed then is never sent. Called later, when rows are locked, it could wait for a turn that waits for
-- those rows.
--
--     BEGIN; SELECT sweeper.between_turns(); DELETE FROM sweeper.deletions WHERE …; COMMIT;
--
-- The leader stands still meanwhile, so a transaction that is left open is ended.
CREATE FUNCTION between_turns() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = sweeper, pg_temp AS $$
BEGIN
    LOCK TABLE requests IN SHARE ROW EXCLUSIVE MODE;
    PERFORM set_config('idle_in_transaction_session_timeout', '30s', true);
END $$;
REVOKE EXECUTE ON FUNCTION between_turns() FROM PUBLIC;
-- Nobody may make a trigger of their own with it. A trigger that is there needs no right.
REVOKE EXECUTE ON FUNCTION edited() FROM PUBLIC;

-- A trigger for statements runs for the table that a statement names, so both tables need one. The session of the leader has the
-- setting `sweeper.leads`.
CREATE TRIGGER deletions_edited AFTER UPDATE OR DELETE ON deletions FOR EACH STATEMENT
WHEN (current_setting('sweeper.leads', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION edited();
CREATE TRIGGER deletions_edited AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON deletions_known FOR EACH STATEMENT
WHEN (current_setting('sweeper.leads', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION edited();
CREATE TRIGGER holds_edited AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON holds FOR EACH STATEMENT
WHEN (current_setting('sweeper.leads', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION edited();
CREATE TRIGGER acts_edited AFTER INSERT OR UPDATE OR DELETE ON acts FOR EACH STATEMENT
WHEN (current_setting('sweeper.leads', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION edited();

-- AFTER, for all triggers on rows: with one that runs before, the server locks each row for itself at each UPDATE, whatever WHEN says.

-- The verdict on a row is written by its id. With another entry in the row, the verdict would be about an entry that was not sent.
CREATE FUNCTION deletions_renamed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'id, agent_id and entry_id of a deletion stay as they are: delete the row and insert another';
END $$;
CREATE TRIGGER deletions_renamed AFTER UPDATE OF id, agent_id, entry_id ON deletions_known FOR EACH ROW
WHEN (NEW.id <> OLD.id OR NEW.agent_id <> OLD.agent_id OR NEW.entry_id <> OLD.entry_id) EXECUTE FUNCTION deletions_renamed();

-- No CHECK: the daemon must be able to put a row off even if its clock begins in 1970.
CREATE FUNCTION deletions_in_seconds() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'due_at must be Unix milliseconds; this looks like seconds';
END $$;
CREATE TRIGGER deletions_in_seconds AFTER UPDATE OF due_at ON deletions_known FOR EACH ROW
WHEN (NEW.due_at < 100000000000 AND NEW.due_at <> 0 AND NEW.due_at <> OLD.due_at
    AND current_setting('sweeper.leads', true) IS DISTINCT FROM 'on')
EXECUTE FUNCTION deletions_in_seconds();

-- Open wishes follow their row to its end. Dead ones follow it out of there, when somebody retries it or knows better. A fulfilled
-- wish stays fulfilled when the row is reopened.
CREATE FUNCTION deletions_ended() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = sweeper, pg_temp AS $$
BEGIN
    UPDATE wishes SET state = nullif(NEW.state, 'pending'), closed_at = NEW.settled_at
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND (state IS NULL OR state = 'dead');
    DELETE FROM wishes
    WHERE label = '' AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state <> 'dead';
    RETURN NULL;
END $$;
CREATE TRIGGER deletions_ended AFTER UPDATE OF state ON deletions_known FOR EACH ROW
WHEN (OLD.label IS NOT NULL AND NEW.state <> OLD.state) EXECUTE FUNCTION deletions_ended();

-- Whoever removes an open row cancels its wishes.
CREATE FUNCTION deletions_removed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = sweeper, pg_temp AS $$
BEGIN
    DELETE FROM wishes WHERE label = '' AND agent_id = OLD.agent_id AND entry_id = OLD.entry_id;
    UPDATE wishes SET state = 'cancelled', closed_at = floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
    WHERE agent_id = OLD.agent_id AND entry_id = OLD.entry_id AND state IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER deletions_removed AFTER DELETE ON deletions_known FOR EACH ROW
WHEN (OLD.label IS NOT NULL) EXECUTE FUNCTION deletions_removed();

-- Whoever cancels the last open wish for an entry removes its row. Until then, the row has the label of an open wish.
CREATE FUNCTION wishes_cancelled() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = sweeper, pg_temp AS $$
BEGIN
    DELETE FROM deletions_known
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state = 'pending' AND NOT EXISTS (
        SELECT 1 FROM wishes WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state IS NULL);
    -- If only the wish without a label is left, the row is one without labels again.
    DELETE FROM wishes
    WHERE label = '' AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND NOT EXISTS (
        SELECT 1 FROM wishes WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state IS NULL AND label <> '');
    UPDATE deletions_known SET label = (
        SELECT label FROM wishes WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state IS NULL AND label <> ''
        ORDER BY wished_at DESC LIMIT 1)
    WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND label = NEW.label;
    RETURN NULL;
END $$;
CREATE TRIGGER wishes_cancelled AFTER UPDATE OF state ON wishes FOR EACH ROW
WHEN (NEW.state = 'cancelled' AND OLD.state IS NULL) EXECUTE FUNCTION wishes_cancelled();

-- A label comes with an INSERT. With another one, the row would not close its open wishes.
CREATE FUNCTION deletions_relabelled() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = sweeper, pg_temp AS $$
BEGIN
    IF (CASE WHEN NEW.label IS NULL
        THEN EXISTS (SELECT 1 FROM wishes WHERE agent_id = NEW.agent_id AND entry_id = NEW.entry_id AND state IS NULL)
        ELSE NOT EXISTS (
            SELECT 1 FROM wishes WHERE label = NEW.label AND agent_id = NEW.agent_id AND entry_id = NEW.entry_id) END)
    THEN
        RAISE 'the label of a deletion comes with an INSERT: insert the entry again with the label';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER deletions_relabelled AFTER UPDATE OF label ON deletions_known FOR EACH ROW
WHEN (NEW.label IS DISTINCT FROM OLD.label) EXECUTE FUNCTION deletions_relabelled();

-- They have the rights of the owner. With a trigger of one's own on a temporary table, whoever may execute them could remove rows.
REVOKE EXECUTE ON FUNCTION deletions_ended(), deletions_removed(), wishes_cancelled(), deletions_relabelled() FROM PUBLIC;
