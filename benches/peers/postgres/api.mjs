// The API's client of the Node.js peers, and what they print. `node:http` with connections that are kept is faster than `fetch`.

import http from "node:http";

export const IDS_PER_REQUEST = 20;

export class Api {
  constructor(url, inFlight) {
    this.url = new URL(url);
    this.agent = new http.Agent({ keepAlive: true, maxSockets: inFlight });
  }

  // Deletes up to 20 entries of one agent. Returns the set of those that were deleted.
  delete(agent, ids) {
    const body = JSON.stringify({ ids });
    const options = {
      agent: this.agent,
      host: this.url.hostname,
      port: this.url.port,
      path: `/v1/agents/${agent}/audio-cache/bulk-delete`,
      method: "POST",
      headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body), "x-api-key": "k" },
    };
    return new Promise((resolve, reject) => {
      const request = http.request(options, (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (chunk) => (text += chunk));
        response.on("error", reject);
        response.on("end", () => {
          if (response.statusCode !== 200) return reject(new Error(`status ${response.statusCode}`));
          resolve(new Set(JSON.parse(text).deleted));
        });
      });
      request.on("error", reject);
      request.end(body);
    });
  }
}

// Groups rows by their agent, in requests of up to 20.
export function* requests(rows) {
  const byAgent = new Map();
  for (const row of rows) {
    if (!byAgent.has(row.agent)) byAgent.set(row.agent, []);
    byAgent.get(row.agent).push(row);
  }
  for (const [agent, group] of byAgent) {
    for (let first = 0; first < group.length; first += IDS_PER_REQUEST) {
      yield [agent, group.slice(first, first + IDS_PER_REQUEST)];
    }
  }
}

// The rows that everybody gets: agents interleaved.
export function rows(count, agents) {
  return Array.from({ length: count }, (_, i) => ({ agent: `PROJECT-${i % agents}`, entry: String(1000000 + i) }));
}

// The same, grouped beforehand by whoever inserts them.
export function prepared(count, agents) {
  return Array.from(requests(rows(count, agents)), ([agent, group]) => ({ agent, ids: group.map((row) => row.entry) }));
}

export function told(begun) {
  const seconds = Number(process.hrtime.bigint() - begun) / 1e9;
  console.log(JSON.stringify({ seconds, peak_kib: process.resourceUsage().maxRSS }));
}
