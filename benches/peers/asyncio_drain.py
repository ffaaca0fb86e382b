"""What one would write with asyncio and aiohttp: everything in memory, 16 requests in flight, a commit per 50 requests.

asyncio_drain.py URL DATABASE

No claim before a request is sent, no retry, no history, no rate; what was sent when it dies is not known. Reads all rows
in the order of the table, groups them by agent, and marks them as done. Prints what it took, from opening the database to
the last commit, without the start of Python.
"""

import asyncio
import collections
import json
import sqlite3
import sys
import time

import aiohttp

IN_FLIGHT = 16
IDS_PER_REQUEST = 20
REQUESTS_PER_COMMIT = 50


async def drain(url, database):
    queue = sqlite3.connect(database)
    by_agent = collections.defaultdict(list)
    for row, agent, entry in queue.execute("SELECT id, agent_id, entry_id FROM deletions WHERE done = 0"):
        by_agent[agent].append((row, entry))
    batches = (
        (agent, rows[first : first + IDS_PER_REQUEST])
        for agent, rows in by_agent.items()
        for first in range(0, len(rows), IDS_PER_REQUEST)
    )
    requests, done = 0, []

    def mark():
        with queue:
            queue.executemany("UPDATE deletions SET done = 1 WHERE id = ?", done)
        done.clear()

    async def work(session):
        nonlocal requests
        for agent, rows in batches:
            body = {"ids": [entry for _, entry in rows]}
            async with session.post(f"{url}/v1/agents/{agent}/audio-cache/bulk-delete", json=body) as response:
                response.raise_for_status()
                deleted = set((await response.json())["deleted"])
            requests += 1
            done.extend((row,) for row, entry in rows if entry in deleted)
            if len(done) >= REQUESTS_PER_COMMIT * IDS_PER_REQUEST:
                mark()

    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector, headers={"x-api-key": "k"}) as session:
        await asyncio.gather(*(work(session) for _ in range(IN_FLIGHT)))
    mark()
    return queue, requests


def main():
    url, database = sys.argv[1:]
    begun = time.perf_counter()
    queue, requests = asyncio.run(drain(url, database))
    seconds = time.perf_counter() - begun
    (left,) = queue.execute("SELECT count(*) FROM deletions WHERE done = 0").fetchone()
    assert left == 0, f"{left} rows are left"
    with open("/proc/self/status") as status:
        memory = next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), None)
    print(json.dumps({"seconds": seconds, "requests": requests, "peak_kib": memory}))


main()
