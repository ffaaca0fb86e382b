// What the Node clients have in common: a request a line on standard input, an answer a line on standard output.
//
// `clients.rs` asks. A form is one way to enqueue: its name, what it does, and a function of the rows that returns ids or
// nothing. Standard input is read with readSync, because some clients are synchronous: they cannot wait for an event.

import { existsSync, readFileSync, readSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

export const require = createRequire(import.meta.url);

function tell(answer) {
  process.stdout.write(JSON.stringify(answer) + "\n");
}

/** Ends the program: what it is about is not here. */
export function missing(what) {
  tell({ missing: what });
  process.exit(0);
}

/** Ends the program unless this version of the package is there, which the README speaks of. */
export function need(name, version) {
  const files = (require.resolve.paths(name) ?? []).map((path) => join(path, name, "package.json"));
  const file = files.find((file) => existsSync(file));
  const found = file ? JSON.parse(readFileSync(file, "utf8")).version : "no version";
  if (!found.startsWith(version + ".")) missing(`${name} ${version} (${found} is installed)`);
}

let buffered = "";

function readLine() {
  const chunk = Buffer.alloc(65536);
  while (!buffered.includes("\n")) {
    const length = readSync(0, chunk, 0, chunk.length, null);
    if (length === 0) return null;
    buffered += chunk.toString("utf8", 0, length);
  }
  const end = buffered.indexOf("\n");
  const line = buffered.slice(0, end);
  buffered = buffered.slice(end + 1);
  return line;
}

/** In the middle of a transaction that has read: here, the test tries to write. */
export function goOn() {
  tell({ read: true });
  readLine();
}

/** What an error says, and what the errors say that caused it. */
function messages(error) {
  if (!error) return [];
  // Prisma's adapter gives an object that is no error.
  const said = error.message ? [`${error.name}: ${error.message}`] : [error.originalMessage];
  return said.concat(messages(error.cause ?? error.parent ?? error.meta?.driverAdapterError));
}

/**
 * `title` is what the README calls the client, `numbers` what becomes of IDs that are numbers; a form may say otherwise, after
 * its function.
 */
export async function serve(title, busyTimeout, numbers, forms) {
  const runs = Object.fromEntries(forms.map(([name, , run]) => [name, run]));
  const announced = forms.map(([name, does, , itsNumbers]) => [name, does, itsNumbers ?? numbers]);
  tell({ title, busy_timeout: Number(busyTimeout), forms: announced });
  for (let line = readLine(); line !== null; line = readLine()) {
    const { form, rows } = JSON.parse(line);
    try {
      tell({ ids: (await runs[form](rows))?.map(Number) ?? null });
    } catch (error) {
      tell({ error: messages(error).join(" / ") });
    }
  }
}

export const INSERT = "INSERT INTO deletions (agent_id, entry_id, priority) VALUES (:agent_id, :entry_id, :priority)";
export const UPSERT = `${INSERT} ON CONFLICT (agent_id, entry_id) DO UPDATE SET agent_id = excluded.agent_id RETURNING id`;
export const COUNT = "SELECT count(*) FROM deletions";
