// graphile-worker, as its page on performance says that it is fast: a local queue, completions in batches, no log line per job.
//
// graphile_worker.mjs fill DATABASE ROWS AGENTS single|prepared
// graphile_worker.mjs work DATABASE URL ROWS single|gather|batch|record CONCURRENT
//
// single: one job per ID, and one request. gather: one job per ID; jobs of one agent that run at the same time share a request.
// batch: a batch job of up to 20 IDs of one agent, which returns a promise per ID, so that only those that failed are tried again.
// record: the same, and a row per ID in a table of outcomes.
//
// A job that is done is deleted. No rate, no memory of what was sent: after a kill, the jobs that the process had locked wait for four
// hours.

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { Api, IDS_PER_REQUEST, prepared, rows, told } from "./api.mjs";

const IN_FLIGHT = 64;
const CHUNK = 5000;
// Jobs of one agent wait this long for others, in milliseconds.
const GATHERED_WITHIN = 5;

const logger = new Logger(() => () => {});

async function fill(database, count, agents, kind) {
  const utils = await makeWorkerUtils({ connectionString: database, logger });
  await utils.migrate();
  await utils.withPgClient((client) => client.query("CREATE TABLE outcomes (entry_id text, outcome text)"));
  const all = kind === "single" ? rows(count, agents) : prepared(count, agents);
  const payload = (job) => (kind === "single" ? job : job.ids.map((entry) => ({ agent: job.agent, entry })));
  for (let first = 0; first < all.length; first += CHUNK) {
    const jobs = all.slice(first, first + CHUNK).map((job) => ({ identifier: "delete", payload: payload(job) }));
    await utils.addJobs(jobs);
  }
  await utils.release();
}

// Collects the IDs of an agent until they fill a request, or for some milliseconds.
class Gatherer {
  constructor(api) {
    this.api = api;
    this.waiting = new Map();
  }

  delete(agent, entry) {
    return new Promise((resolve, reject) => {
      if (!this.waiting.has(agent)) {
        this.waiting.set(agent, []);
        setTimeout(() => this.send(agent), GATHERED_WITHIN);
      }
      const gathered = this.waiting.get(agent);
      gathered.push({ entry, resolve, reject });
      if (gathered.length === IDS_PER_REQUEST) this.send(agent);
    });
  }

  send(agent) {
    const gathered = this.waiting.get(agent);
    if (!gathered) return;
    this.waiting.delete(agent);
    const failed = (error) => gathered.forEach((row) => row.reject(error));
    this.api.delete(agent, gathered.map((row) => row.entry)).then((deleted) => {
      gathered.forEach((row) => (deleted.has(row.entry) ? row.resolve() : row.reject(new Error("not deleted"))));
    }, failed);
  }
}

function task(api, kind, counted) {
  const gatherer = new Gatherer(api);
  const sure = (ok) => {
    if (!ok) throw new Error("not deleted");
  };
  return async (payload, helpers) => {
    if (kind === "single") {
      sure((await api.delete(payload.agent, [payload.entry])).has(payload.entry));
      return counted(1);
    }
    if (kind === "gather") {
      await gatherer.delete(payload.agent, payload.entry);
      return counted(1);
    }
    const deleted = await api.delete(payload[0].agent, payload.map((row) => row.entry));
    if (kind === "record") {
      const outcomes = payload.map((row) => (deleted.has(row.entry) ? "deleted" : "failed"));
      const insert = "INSERT INTO outcomes SELECT * FROM unnest($1::text[], $2::text[])";
      await helpers.query(insert, [payload.map((row) => row.entry), outcomes]);
    }
    counted(payload.length);
    return payload.map(async (row) => sure(deleted.has(row.entry)));
  };
}

async function work(database, url, count, kind, concurrentJobs) {
  const api = new Api(url, IN_FLIGHT);
  const begun = process.hrtime.bigint();
  let done = 0;
  const worker = { connectionString: database, concurrentJobs, maxPoolSize: 25, completeJobBatchDelay: 0 };
  const preset = { worker: { ...worker, failJobBatchDelay: 0, localQueue: { size: Math.max(500, 2 * concurrentJobs) } } };
  const taskList = { delete: task(api, kind, (ids) => void (done += ids)) };
  const runner = await run({ preset, logger, taskList, noHandleSignals: true });
  while (done < count) await new Promise((resolve) => setTimeout(resolve, 5));
  // It waits for what is being written.
  await runner.stop();
  told(begun);
  process.exit(0);
}

const [verb, database, ...rest] = process.argv.slice(2);
if (verb === "fill") {
  const [count, agents, kind] = rest;
  await fill(database, Number(count), Number(agents), kind);
} else {
  const [url, count, kind, concurrent] = rest;
  await work(database, url, Number(count), kind, Number(concurrent));
}
