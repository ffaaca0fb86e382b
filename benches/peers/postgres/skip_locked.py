"""What one would write with psycopg: SELECT … FOR UPDATE SKIP LOCKED, and one UPDATE for all that was deleted.

skip_locked.py fill DATABASE ROWS AGENTS
skip_locked.py work DATABASE URL ROWS

A transaction locks up to 640 rows, sends them with asyncio and aiohttp, 32 requests in flight, and marks them as done; two such
loops run at a time, so that one works with the database while the other sends. No claim before a request is sent, no retry, no
history, no rate. After a kill, the server gives the locks back, and what was in flight is sent again at once.
"""

import asyncio
import collections
import json
import resource
import sys
import time

import aiohttp
import psycopg

LOOPS = 2
ROWS_PER_TRANSACTION = 640
IDS_PER_REQUEST = 20
IN_FLIGHT = 64

LOOK = """
SELECT id, agent_id, entry_id FROM deletions WHERE NOT done ORDER BY agent_id, id LIMIT %s FOR UPDATE SKIP LOCKED"""


def fill(database, rows, agents):
    with psycopg.connect(database) as conn:
        conn.execute(
            """CREATE TABLE deletions (
                id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, agent_id text COLLATE "C" NOT NULL, entry_id text NOT NULL,
                done boolean NOT NULL DEFAULT false)"""
        )
        conn.execute("CREATE INDEX deletions_open ON deletions (agent_id, id) WHERE NOT done")
        conn.execute(
            """INSERT INTO deletions (agent_id, entry_id)
            SELECT 'PROJECT-' || (i %% %s::int), (1000000 + i)::text FROM generate_series(0, %s::int - 1) AS i""",
            (agents, rows),
        )


async def send(session, url, agent, rows):
    body = {"ids": [entry for _, entry in rows]}
    async with session.post(f"{url}/v1/agents/{agent}/audio-cache/bulk-delete", json=body) as response:
        response.raise_for_status()
        deleted = set((await response.json())["deleted"])
    return [row for row, entry in rows if entry in deleted]


async def loop(session, database, url):
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        while True:
            async with conn.transaction():
                cursor = await conn.execute(LOOK, (ROWS_PER_TRANSACTION,))
                by_agent = collections.defaultdict(list)
                for row, agent, entry in await cursor.fetchall():
                    by_agent[agent].append((row, entry))
                if not by_agent:
                    return
                calls = [
                    send(session, url, agent, rows[first : first + IDS_PER_REQUEST])
                    for agent, rows in by_agent.items()
                    for first in range(0, len(rows), IDS_PER_REQUEST)
                ]
                done = [row for rows in await asyncio.gather(*calls) for row in rows]
                await conn.execute("UPDATE deletions SET done = true WHERE id = ANY (%s)", (done,))


async def work(database, url):
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector, headers={"x-api-key": "k"}) as session:
        await asyncio.gather(*(loop(session, database, url) for _ in range(LOOPS)))


def main():
    verb, database, *rest = sys.argv[1:]
    if verb == "fill":
        return fill(database, int(rest[0]), int(rest[1]))
    begun = time.perf_counter()
    asyncio.run(work(database, rest[0]))
    seconds = time.perf_counter() - begun
    with psycopg.connect(database) as conn:
        (left,) = conn.execute("SELECT count(*) FROM deletions WHERE NOT done").fetchone()
    assert left == 0, f"{left} rows are left"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_kib": peak}))


main()
