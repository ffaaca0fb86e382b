// Prisma, with the adapter for better-sqlite3.

import { goOn, need, require, serve } from "./serve.mjs";

need("@prisma/client", "7");
need("@prisma/adapter-better-sqlite3", "7");

const { PrismaClient } = require("@prisma/client");
const { PrismaBetterSqlite3 } = require("@prisma/adapter-better-sqlite3");

const prisma = new PrismaClient({ adapter: new PrismaBetterSqlite3({ url: "file:./sweeper.db" }) });

const key = ({ agent_id, entry_id }) => ({ agent_id_entry_id: { agent_id, entry_id } });
const idOf = async ({ agent_id, entry_id }) =>
  (await prisma.$queryRaw`SELECT id FROM deletions WHERE agent_id = ${agent_id} AND entry_id = ${entry_id}`)[0].id;

async function createMany(rows) {
  // docs
  await prisma.deletion.createMany({ data: rows })
  // end
}

async function create(rows) {
  for (const row of rows) await prisma.deletion.create({ data: row });
}

async function upsert(rows) {
  const ids = [];
  for (const row of rows) {
    const { agent_id } = row;
    const where = key(row);
    // docs
    await prisma.deletion.upsert({ where, create: row, update: { agent_id } })
    // end
    ids.push(await idOf(row));
  }
  return ids;
}

async function emptyUpsert(rows) {
  for (const row of rows) await prisma.deletion.upsert({ where: key(row), create: row, update: {} });
}

async function readThenWrite(tx, rows) {
  await tx.deletion.count();
  goOn();
  await tx.deletion.createMany({ data: rows });
}

async function lockFirst(rows) {
  await prisma.$transaction(async (tx) => {
    // docs
    await tx.$executeRaw`DELETE FROM deletions WHERE 0`
    // end
    await readThenWrite(tx, rows);
  });
}

const [{ timeout }] = await prisma.$queryRaw`PRAGMA busy_timeout`;
await serve("Prisma 7", timeout, "refused", [
  ["createMany", "enqueues", createMany],
  ["create", "enqueues", create],
  ["upsert", "tells the ids", upsert],
  ["update: {}", "leaves a settled row as it is", emptyUpsert],
  ["DELETE FROM deletions WHERE 0", "locks first", lockFirst],
  ["BEGIN", "is locked out", (rows) => prisma.$transaction((tx) => readThenWrite(tx, rows))],
]);
