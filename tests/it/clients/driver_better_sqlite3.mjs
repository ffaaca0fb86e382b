// better-sqlite3.

import { COUNT, INSERT, UPSERT, goOn, need, require, serve } from "./serve.mjs";

need("better-sqlite3", "12");

const Database = require("better-sqlite3");

const db = new Database("sweeper.db");

function insert(rows) {
  const sql = INSERT;
  for (const row of rows) {
    // docs
    db.prepare(sql).run(row)
    // end
  }
}

function readThenWrite(rows) {
  db.prepare(COUNT).get();
  goOn();
  insert(rows);
}

function immediate(rows) {
  const work = () => readThenWrite(rows);
  // docs
  db.transaction(work).immediate()
  // end
}

await serve("better-sqlite3 12", db.pragma("busy_timeout", { simple: true }), "refused", [
  ["run", "enqueues", insert],
  ["RETURNING", "tells the ids", (rows) => rows.map((row) => db.prepare(UPSERT).get(row).id)],
  ["lastInsertRowid", "tells another's id", (rows) => rows.map((row) => db.prepare(INSERT).run(row).lastInsertRowid)],
  ["immediate()", "locks first", immediate],
  ["BEGIN", "is locked out", (rows) => db.transaction(readThenWrite)(rows)],
]);
