"""A pandas data frame, with a connection of sqlite3."""

import sqlite3
from contextlib import closing

from serve import need, serve

need("pandas", "3.1")

import pandas


def to_sql(rows):
    frame = pandas.DataFrame(rows)
    with closing(sqlite3.connect("sweeper.db")) as connection:
        # docs
        frame.to_sql("deletions", connection, if_exists="append", index=False)
        # end


with closing(sqlite3.connect("sweeper.db")) as connection:
    busy_timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]

serve("pandas 3.1", busy_timeout, "exact", [("to_sql", "enqueues", to_sql)])
