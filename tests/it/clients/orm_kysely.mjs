// Kysely, with better-sqlite3.

import { goOn, need, require, serve } from "./serve.mjs";

need("kysely", "0.28");
need("better-sqlite3", "12");

const Database = require("better-sqlite3");
const { Kysely, SqliteDialect, sql } = require("kysely");

const database = new Database("sweeper.db");
const db = new Kysely({ dialect: new SqliteDialect({ database }) });

async function insert(rows) {
  // docs
  await db.insertInto("deletions").values(rows).execute()
  // end
}

async function upsert(rows) {
  const same = (eb) => ({ agent_id: eb.ref("excluded.agent_id") });
  const conflict = (oc) => oc.columns(["agent_id", "entry_id"]).doUpdateSet(same);
  const returned = await db.insertInto("deletions").values(rows).onConflict(conflict).returning("id").execute();
  return returned.map((row) => row.id);
}

async function readThenWrite(tx, rows) {
  await tx.selectFrom("deletions").select("id").execute();
  goOn();
  await tx.insertInto("deletions").values(rows).execute();
}

async function lockFirst(rows) {
  await db.transaction().execute(async (tx) => {
    // docs
    await sql`DELETE FROM deletions WHERE 0`.execute(tx)
    // end
    await readThenWrite(tx, rows);
  });
}

const ignore = (rows) => db.insertInto("deletions").values(rows).onConflict((oc) => oc.doNothing()).execute();
await serve("Kysely 0.28", database.pragma("busy_timeout", { simple: true }), "refused", [
  ["insertInto", "enqueues", insert],
  ["doNothing", "enqueues", async (rows) => void (await ignore(rows))],
  ["doUpdateSet", "tells the ids", upsert],
  ["replaceInto", "fails on a duplicate", async (rows) => void (await db.replaceInto("deletions").values(rows).execute())],
  ["DELETE FROM deletions WHERE 0", "locks first", lockFirst],
  ["BEGIN", "is locked out", (rows) => db.transaction().execute((tx) => readThenWrite(tx, rows))],
]);
