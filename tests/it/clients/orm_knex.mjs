// Knex, with better-sqlite3.

import { goOn, need, require, serve } from "./serve.mjs";

need("knex", "3");
need("better-sqlite3", "12");

const connection = { filename: "sweeper.db" };
const knex = require("knex")({ client: "better-sqlite3", connection, useNullAsDefault: true });

async function insert(rows) {
  // docs
  await knex("deletions").insert(rows)
  // end
}

async function merge(rows) {
  const conflict = knex("deletions").insert(rows).onConflict(["agent_id", "entry_id"]);
  return (await conflict.merge(["agent_id"]).returning("id")).map((row) => row.id);
}

async function readThenWrite(tx, rows) {
  await tx("deletions").count();
  goOn();
  await tx("deletions").insert(rows);
}

async function lockFirst(rows) {
  await knex.transaction(async (tx) => {
    // docs
    await tx.raw("DELETE FROM deletions WHERE 0")
    // end
    await readThenWrite(tx, rows);
  });
}

async function insertOneByOne(rows) {
  const ids = [];
  for (const row of rows) ids.push((await knex("deletions").insert(row))[0]);
  return ids;
}

const ignore = (rows) => knex("deletions").insert(rows).onConflict(["agent_id", "entry_id"]).ignore();
const [{ timeout }] = await knex.raw("PRAGMA busy_timeout");
await serve("Knex 3", timeout, "refused", [
  ["insert", "enqueues", insert],
  ["ignore", "enqueues", async (rows) => void (await ignore(rows))],
  ["merge", "tells the ids", merge],
  ["id", "tells another's id", insertOneByOne],
  ["DELETE FROM deletions WHERE 0", "locks first", lockFirst],
  ["BEGIN", "is locked out", (rows) => knex.transaction((tx) => readThenWrite(tx, rows))],
]);
