// Drizzle, with better-sqlite3.

import { goOn, need, require, serve } from "./serve.mjs";

need("drizzle-orm", "0.45");
need("better-sqlite3", "12");

const Database = require("better-sqlite3");
const { sql } = require("drizzle-orm");
const { drizzle } = require("drizzle-orm/better-sqlite3");
const { integer, primaryKey, sqliteTable, text } = require("drizzle-orm/sqlite-core");

const client = new Database("sweeper.db");
const db = drizzle({ client });

const columns = {
  agent_id: text().notNull(),
  entry_id: text().notNull(),
  priority: integer().default(0),
  due_at: integer().default(0),
};
const deletions = sqliteTable("deletions", columns, (table) => [
  // docs
  primaryKey({ columns: [table.agent_id, table.entry_id] })
  // end
]);

async function insert(rows) {
  // docs
  await db.insert(deletions).values(rows)
  // end
}

async function upsert(rows) {
  const upsert = { target: [deletions.agent_id, deletions.entry_id], set: { agent_id: sql`excluded.agent_id` } };
  const returned = await db.insert(deletions).values(rows).onConflictDoUpdate(upsert).returning({ id: sql`id` });
  return returned.map((row) => row.id);
}

function inTransaction(options, rows) {
  const work = (tx) => {
    tx.select().from(deletions).all();
    goOn();
    tx.insert(deletions).values(rows).run();
  };
  if (options === "deferred") return db.transaction(work);
  // docs
  db.transaction(work, { behavior: "immediate" })
  // end
}

await serve("Drizzle 0.45", client.pragma("busy_timeout", { simple: true }), "refused", [
  ["insert", "enqueues", insert],
  ["onConflictDoNothing", "enqueues", async (rows) => void (await db.insert(deletions).values(rows).onConflictDoNothing())],
  ["onConflictDoUpdate", "tells the ids", upsert],
  ["immediate", "locks first", (rows) => inTransaction("immediate", rows)],
  ["BEGIN", "is locked out", (rows) => inTransaction("deferred", rows)],
]);
