"""What one would write first: requests and sqlite3, one request at a time, a commit for each.

plain_drain.py URL DATABASE post|session

With `requests.post`, as its documentation begins, which connects anew each time; or with a session, which keeps the
connection. Prints what it took, from opening the database to the last commit, without the start of Python.
"""

import itertools
import json
import sqlite3
import sys
import time

import requests

IDS_PER_REQUEST = 20


def drain(url, queue, post):
    sent = 0
    rows = queue.execute("SELECT agent_id, id, entry_id FROM deletions WHERE done = 0 ORDER BY agent_id, id").fetchall()
    for agent, group in itertools.groupby(rows, key=lambda row: row[0]):
        while batch := list(itertools.islice(group, IDS_PER_REQUEST)):
            body = {"ids": [entry for _, _, entry in batch]}
            response = post(
                f"{url}/v1/agents/{agent}/audio-cache/bulk-delete", json=body, headers={"x-api-key": "k"}
            )
            response.raise_for_status()
            deleted = set(response.json()["deleted"])
            sent += 1
            with queue:
                done = [(row,) for _, row, entry in batch if entry in deleted]
                queue.executemany("UPDATE deletions SET done = 1 WHERE id = ?", done)
    return sent


def main():
    url, database, how = sys.argv[1:]
    post = {"post": requests.post, "session": requests.Session().post}[how]
    begun = time.perf_counter()
    queue = sqlite3.connect(database)
    sent = drain(url, queue, post)
    seconds = time.perf_counter() - begun
    (left,) = queue.execute("SELECT count(*) FROM deletions WHERE done = 0").fetchone()
    assert left == 0, f"{left} rows are left"
    with open("/proc/self/status") as status:
        memory = next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), None)
    print(json.dumps({"seconds": seconds, "requests": sent, "peak_kib": memory}))


main()
