// Node's own node:sqlite.

import { COUNT, INSERT, UPSERT, goOn, missing, require, serve } from "./serve.mjs";

let DatabaseSync;
try {
  ({ DatabaseSync } = require("node:sqlite"));
} catch {
  missing(`node:sqlite (this is Node ${process.versions.node})`);
}
const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 22 || (major === 22 && minor < 16)) missing(`Node 22.16 or newer (this is ${process.versions.node})`);

// docs
const db = new DatabaseSync("sweeper.db", { timeout: 5000 })
// end

function insert(rows) {
  for (const row of rows) db.prepare(INSERT).run(row);
}

function inTransaction(begin, rows) {
  begin();
  try {
    db.prepare(COUNT).get();
    goOn();
    insert(rows);
    db.exec("COMMIT");
  } catch (error) {
    db.exec("ROLLBACK");
    throw error;
  }
}

function immediate() {
  // docs
  db.exec("BEGIN IMMEDIATE")
  // end
}

await serve("`node:sqlite`, Node 22.16", db.prepare("PRAGMA busy_timeout").get().timeout, "refused", [
  ["run", "enqueues", insert],
  ["RETURNING", "tells the ids", (rows) => rows.map((row) => db.prepare(UPSERT).get(row).id)],
  ["lastInsertRowid", "tells another's id", (rows) => rows.map((row) => db.prepare(INSERT).run(row).lastInsertRowid)],
  ["BEGIN IMMEDIATE", "locks first", (rows) => inTransaction(immediate, rows)],
  ["BEGIN", "is locked out", (rows) => inTransaction(() => db.exec("BEGIN"), rows)],
]);
