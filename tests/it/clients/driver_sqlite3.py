"""Python's own sqlite3."""

import sqlite3

from serve import go_on, serve

INSERT = "INSERT INTO deletions (agent_id, entry_id, priority) VALUES (:agent_id, :entry_id, :priority)"
UPSERT = INSERT + " ON CONFLICT (agent_id, entry_id) DO UPDATE SET agent_id = excluded.agent_id RETURNING id"
COUNT = "SELECT count(*) FROM deletions"

# What an import gives, with default settings.
default = sqlite3.connect("sweeper.db")


def executemany(rows):
    with default:
        default.executemany(INSERT, rows)


def upsert(rows):
    with default:
        return [default.execute(UPSERT, row).fetchone()[0] for row in rows]


def lastrowid(rows):
    with default:
        return [default.execute(INSERT, row).lastrowid for row in rows]


def immediate(rows):
    # docs
    queue = sqlite3.connect("sweeper.db", isolation_level=None)  # Python's sqlite3, to read first
    queue.execute("BEGIN IMMEDIATE")
    # end
    try:
        queue.execute(COUNT).fetchall()
        go_on()
        queue.executemany(INSERT, rows)
        queue.execute("COMMIT")
    finally:
        queue.close()


def deferred(rows):
    queue = sqlite3.connect("sweeper.db", isolation_level=None)
    try:
        queue.execute("BEGIN")
        queue.execute(COUNT).fetchall()
        go_on()
        queue.executemany(INSERT, rows)
    finally:
        queue.close()


def open_cursor(rows):
    queue = sqlite3.connect("sweeper.db")
    try:
        for _ in queue.execute("SELECT id FROM deletions"):
            go_on()
            queue.executemany(INSERT, rows)
    finally:
        queue.close()


serve(
    "sqlite3",
    default.execute("PRAGMA busy_timeout").fetchone()[0],
    "exact",
    [
        ("executemany", "enqueues", executemany),
        ("DO UPDATE", "tells the ids", upsert),
        ("lastrowid", "tells another's id", lastrowid),
        ("BEGIN IMMEDIATE", "locks first", immediate),
        ("BEGIN", "is locked out", deferred),
        ("cursor", "is locked out", open_cursor),
    ],
)
