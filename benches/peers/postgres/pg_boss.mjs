// pg-boss, as its documentation says that it is fast: jobs are fetched and completed in batches, by several workers at a time that do
// not wait between full batches, and each job of a batch has a result of its own.
//
// pg_boss.mjs fill DATABASE ROWS AGENTS single|prepared
// pg_boss.mjs work DATABASE URL ROWS single|prepared work|fetch BATCH WORKERS
//
// single: one job per ID, which the worker groups by agent. prepared: one job with up to 20 IDs of an agent, which nobody groups any
// more, and whose outcome has the IDs that were deleted. work: with `work()`. fetch: with `fetch()` and `complete()`, which writes no
// result per job.
//
// No rate, no memory of what was sent: after a kill, the jobs that were fetched wait until they expire, after 15 minutes.

import { PgBoss } from "pg-boss";
import { Api, prepared, requests, rows, told } from "./api.mjs";

const QUEUE = "deletions";
const IN_FLIGHT = 64;
const CHUNK = 5000;

async function started(database) {
  const boss = new PgBoss(database);
  boss.on("error", (error) => console.error(error));
  await boss.start();
  return boss;
}

async function fill(database, count, agents, kind) {
  const boss = await started(database);
  await boss.createQueue(QUEUE);
  const jobs = kind === "single" ? rows(count, agents) : prepared(count, agents);
  for (let first = 0; first < jobs.length; first += CHUNK) {
    await boss.insert(QUEUE, jobs.slice(first, first + CHUNK).map((data) => ({ data })));
  }
  await boss.stop();
}

// Sends what the jobs want. Returns [job's id, whether all of it was deleted, the outcome] for each.
async function outcomes(api, jobs, kind) {
  if (kind === "prepared") {
    const one = async ({ id, data }) => {
      const deleted = await api.delete(data.agent, data.ids);
      return [id, data.ids.every((entry) => deleted.has(entry)), { deleted: [...deleted] }];
    };
    return Promise.all(jobs.map(one));
  }
  const wanted = jobs.map(({ id, data }) => ({ id, agent: data.agent, entry: data.entry }));
  const one = async ([agent, group]) => {
    const deleted = await api.delete(agent, group.map((row) => row.entry));
    return group.map((row) => [row.id, deleted.has(row.entry), null]);
  };
  return (await Promise.all(Array.from(requests(wanted), one))).flat();
}

async function work(database, url, count, kind, how, batchSize, workers) {
  const boss = await started(database);
  const api = new Api(url, IN_FLIGHT);
  const begun = process.hrtime.bigint();
  let done = 0;
  const handled = async (jobs) => {
    const all = await outcomes(api, jobs, kind);
    done += kind === "prepared" ? jobs.reduce((sum, job) => sum + job.data.ids.length, 0) : jobs.length;
    return all;
  };
  if (how === "work") {
    const options = { batchSize, localConcurrency: workers, perJobResults: true, burstWhenBatchFull: true };
    await boss.work(QUEUE, { ...options, pollingIntervalSeconds: 0.5 }, async (jobs) => {
      const all = await handled(jobs);
      return all.map(([id, ok, output]) => ({ id, status: ok ? "completed" : "failed", output: output ?? undefined }));
    });
    while (done < count) await new Promise((resolve) => setTimeout(resolve, 5));
    // It waits for what is being written.
    await boss.offWork(QUEUE, { wait: true });
  } else {
    const loop = async () => {
      while (done < count) {
        const jobs = await boss.fetch(QUEUE, { batchSize });
        if (jobs.length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
        if (jobs.length === 0) continue;
        const all = await handled(jobs);
        const completed = all.filter(([, ok]) => ok).map(([id]) => id);
        await boss.complete(QUEUE, completed);
      }
    };
    await Promise.all(Array.from({ length: workers }, loop));
  }
  told(begun);
  process.exit(0);
}

const [verb, database, ...rest] = process.argv.slice(2);
if (verb === "fill") {
  const [count, agents, kind] = rest;
  await fill(database, Number(count), Number(agents), kind);
} else {
  const [url, count, kind, how, batch, workers] = rest;
  await work(database, url, Number(count), kind, how, Number(batch), Number(workers));
}
