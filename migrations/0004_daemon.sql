-- Who works on the queue, for those who look: one row, written by the daemon at its start and, with what it writes anyway,
-- when its rate has changed. It outlives its writer: whether that still runs, only the lock beside the file tells.
CREATE TABLE daemon (
    id                  INTEGER PRIMARY KEY,
    pid                 INTEGER NOT NULL,
    version             TEXT    NOT NULL,
    started_at          INTEGER NOT NULL,
    requests_per_second REAL    NOT NULL, -- the current rate, below the configured one if the API bears less
    updated_at          INTEGER NOT NULL,
    CONSTRAINT "there is one daemon" CHECK (id = 1)
);
