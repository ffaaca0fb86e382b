// TypeORM, with better-sqlite3.

import { goOn, need, require, serve } from "./serve.mjs";

need("typeorm", "1");
need("better-sqlite3", "12");

const { DataSource, EntitySchema } = require("typeorm");

const key = { type: "text", primary: true };
const number = { type: "integer", default: 0 };
const columns = { agent_id: key, entry_id: key, priority: number, due_at: number };
const Deletion = new EntitySchema({ name: "Deletion", tableName: "deletions", columns });

const id = { type: "integer", primary: true, generated: true };
const columnsWithId = { id, agent_id: { type: "text" }, entry_id: { type: "text" }, priority: number };
const WithId = new EntitySchema({ name: "WithId", tableName: "deletions", columns: columnsWithId });

const source = new DataSource({ type: "better-sqlite3", database: "sweeper.db", entities: [Deletion, WithId] });
await source.initialize();
const repository = source.getRepository(Deletion);

async function insert(rows) {
  // docs
  await repository.insert(rows)
  // end
}

async function readThenWrite(manager, rows) {
  await manager.count(Deletion);
  goOn();
  await manager.insert(Deletion, rows);
}

async function lockFirst(rows) {
  await source.transaction(async (manager) => {
    // docs
    await manager.query("DELETE FROM deletions WHERE 0")
    // end
    await readThenWrite(manager, rows);
  });
}

async function insertWithId(rows) {
  const ids = [];
  for (const row of rows) ids.push((await source.getRepository(WithId).insert(row)).identifiers[0].id);
  return ids;
}

const [{ timeout }] = await source.query("PRAGMA busy_timeout");
await serve("TypeORM 1", timeout, "rounded", [
  ["insert", "enqueues", insert],
  ["upsert", "enqueues", async (rows) => void (await repository.upsert(rows, ["agent_id", "entry_id"]))],
  ["orIgnore", "enqueues", async (rows) => void (await repository.createQueryBuilder().insert().values(rows).orIgnore().execute())],
  ["save()", "leaves a settled row as it is", async (rows) => void (await repository.save(rows))],
  ["`id`", "tells another's id", insertWithId],
  ["DELETE FROM deletions WHERE 0", "locks first", lockFirst],
  ["BEGIN", "is locked out", (rows) => source.transaction((manager) => readThenWrite(manager, rows))],
]);
