// libsql's client, on a local file.

import { COUNT, INSERT, UPSERT, goOn, need, require, serve } from "./serve.mjs";

need("@libsql/client", "0.18");

const { createClient } = require("@libsql/client");

// docs
const client = createClient({ url: "file:sweeper.db", timeout: 5000 })
// end

async function batch(sql, rows) {
  // docs
  await client.batch(rows.map((args) => ({ sql, args })), "write")
  // end
}

async function upsert(rows) {
  const results = await client.batch(rows.map((args) => ({ sql: UPSERT, args })), "write");
  return results.map((result) => result.rows[0].id);
}

async function lastInsertRowid(rows) {
  const ids = [];
  for (const args of rows) ids.push((await client.execute({ sql: INSERT, args })).lastInsertRowid);
  return ids;
}

async function inTransaction(transaction, rows) {
  try {
    await transaction.execute(COUNT);
    goOn();
    for (const args of rows) await transaction.execute({ sql: INSERT, args });
    await transaction.commit();
  } finally {
    transaction.close();
  }
}

async function immediate(rows) {
  // docs
  const transaction = await client.transaction("write")
  // end
  await inTransaction(transaction, rows);
}

async function deferred(rows) {
  // Of its own: after this, a client stays locked out.
  const client = createClient({ url: "file:sweeper.db", timeout: 5000 });
  try {
    await inTransaction(await client.transaction("deferred"), rows);
  } finally {
    client.close();
  }
}

const [{ timeout }] = (await client.execute("PRAGMA busy_timeout")).rows;
await serve("@libsql/client 0.18", timeout, "refused", [
  ["batch", "enqueues", (rows) => batch(INSERT, rows)],
  ["RETURNING", "tells the ids", upsert],
  ["lastInsertRowid", "tells another's id", lastInsertRowid],
  ["write", "locks first", immediate],
  ["deferred", "is locked out", deferred],
]);
