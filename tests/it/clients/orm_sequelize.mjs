// Sequelize, with sqlite3.

import { goOn, need, require, serve } from "./serve.mjs";

need("sequelize", "6");
need("sqlite3", "6");

const { DataTypes, Sequelize, Transaction } = require("sequelize");

const sequelize = new Sequelize({ dialect: "sqlite", storage: "sweeper.db", logging: false });

const options = { tableName: "deletions", timestamps: false };
// Each column has an object of its own, because Sequelize writes the column's name into it.
const key = () => ({ type: DataTypes.TEXT, primaryKey: true });
const number = () => ({ type: DataTypes.BIGINT, defaultValue: 0 });
const columns = { agent_id: key(), entry_id: key(), priority: number(), due_at: number() };
const Deletion = sequelize.define("deletion", columns, options);

const id = { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true };
const WithId = sequelize.define("withId", { id, agent_id: DataTypes.TEXT, entry_id: DataTypes.TEXT }, options);

async function bulkCreate(rows) {
  // docs
  await Deletion.bulkCreate(rows)
  // end
}

async function findOrCreate(rows) {
  for (const { agent_id, entry_id } of rows) await Deletion.findOrCreate({ where: { agent_id, entry_id } });
}

async function createWithId(rows) {
  const ids = [];
  for (const row of rows) ids.push((await WithId.create(row)).id);
  return ids;
}

async function inTransaction(options, rows) {
  const work = async (transaction) => {
    await Deletion.count({ transaction });
    goOn();
    await Deletion.bulkCreate(rows, { transaction });
  };
  if (options === "deferred") return void (await sequelize.transaction(work));
  // docs
  await sequelize.transaction({ type: Transaction.TYPES.IMMEDIATE }, work)
  // end
}

async function upsert(rows) {
  for (const row of rows) await Deletion.upsert(row);
}

const [[{ timeout }]] = await sequelize.query("PRAGMA busy_timeout");
await serve("Sequelize 6", timeout, "rounded", [
  ["bulkCreate", "enqueues", bulkCreate],
  ["ignoreDuplicates", "enqueues", async (rows) => void (await Deletion.bulkCreate(rows, { ignoreDuplicates: true }))],
  ["upsert", "enqueues", upsert, "refused"],
  ["findOrCreate", "leaves a settled row as it is", findOrCreate],
  ["`id`", "tells another's id", createWithId],
  ["IMMEDIATE", "locks first", (rows) => inTransaction("immediate", rows)],
  ["BEGIN", "is locked out", (rows) => inTransaction("deferred", rows)],
]);
