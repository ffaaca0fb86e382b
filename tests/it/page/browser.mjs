// Looks at the page with a browser, through its devtools protocol: node browser.mjs CHROMIUM AXE DIRECTORY URL TOKEN PATHS…
// Prints one JSON object. Screenshots go into DIRECTORY.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

const [chromium, axe, directory, url, token, ...paths] = process.argv.slice(2);
const profile = mkdtempSync(`${tmpdir()}/sweeper-page-`);
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"];
const browser = spawn(chromium, [...flags, "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank"], { stdio: ["ignore", "ignore", "pipe"] });
// Whatever ends this, nothing is left but the screenshots.
process.on("exit", () => {
  browser.kill("SIGKILL");
  rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
});

const endpoint = await new Promise((resolve, reject) => {
  let said = "";
  browser.stderr.on("data", (text) => {
    said += text;
    const found = said.match(/DevTools listening on (ws:\S+)/);
    if (found) resolve(found[1]);
  });
  browser.on("exit", () => reject(new Error(said)));
});
const socket = new WebSocket(endpoint);
await new Promise((resolve) => socket.addEventListener("open", resolve));
let number = 0;
const waiting = new Map();
const listeners = [];
socket.addEventListener("message", ({ data }) => {
  const { id, method, params, result, error } = JSON.parse(data);
  if (id) waiting.get(id)(error ? Promise.reject(new Error(JSON.stringify(error))) : result);
  else for (const listener of listeners) listener(method, params);
});
let session;
const call = (method, params = {}) =>
  new Promise((resolve) => {
    waiting.set(++number, resolve);
    socket.send(JSON.stringify({ id: number, method, params, sessionId: session }));
  });
const evaluate = async (expression) => {
  const { result, exceptionDetails } = await call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
  if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
  return result.value;
};
const next = (wanted) =>
  new Promise((resolve) => {
    const listener = (method) => {
      if (method !== wanted) return;
      listeners.splice(listeners.indexOf(listener), 1);
      resolve();
    };
    listeners.push(listener);
  });
const press = async (key, code, text) => {
  for (const type of ["keyDown", "keyUp"]) {
    await call("Input.dispatchKeyEvent", { type, key, code: key, windowsVirtualKeyCode: code, text: type === "keyDown" ? text : undefined });
  }
};

const { targetId } = await call("Target.createTarget", { url: "about:blank" });
({ sessionId: session } = await call("Target.attachToTarget", { targetId, flatten: true }));
const complaints = [];
listeners.push((method, params) => {
  if (method === "Log.entryAdded" && !params.entry.url?.endsWith("/favicon.ico")) complaints.push(params.entry.text);
  if (method === "Runtime.exceptionThrown") complaints.push(JSON.stringify(params));
});
for (const domain of ["Page", "Runtime", "Log", "Network"]) await call(`${domain}.enable`);
const open = async (path) => {
  const loaded = next("Page.loadEventFired");
  await call("Page.navigate", { url: url + path });
  await loaded;
};

// Somebody logs in by keyboard alone.
await open("/login");
await evaluate("document.querySelector('input[name=token]').focus()");
await call("Input.insertText", { text: token });
const back = next("Page.loadEventFired");
await press("Enter", 13, "\r");
await back;
const { cookies } = await call("Network.getCookies");
const login = { path: await evaluate("location.pathname"), cookies: cookies.map(({ httpOnly, sameSite, value }) => ({ httpOnly, sameSite, hasToken: value.includes(token) })), script: await evaluate("document.cookie") };

const pages = [];
for (const path of paths) {
  for (const scheme of ["light", "dark"]) {
    for (const width of [360, 768, 1440]) {
      await call("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: false });
      await call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
      await open(path);
      const wide = await evaluate("document.documentElement.scrollWidth");
      const styled = await evaluate("getComputedStyle(document.body).maxWidth !== 'none'");
      await evaluate(readFileSync(axe, "utf8") + ";0");
      const violations = await evaluate(
        "axe.run().then(({ violations }) => violations.map(({ id, nodes }) => id + ': ' + nodes.map(({ html, failureSummary }) => html + ' ' + failureSummary).join(' | ')))",
      );
      const { data } = await call("Page.captureScreenshot", { captureBeyondViewport: true, format: "png" });
      const name = `${path.replace(/[^a-z]+/gi, "-").replace(/^-|-$/g, "") || "overview"}-${scheme}-${width}.png`;
      writeFileSync(`${directory}/${name}`, Buffer.from(data, "base64"));
      pages.push({ path, scheme, width, wide, styled, violations });
    }
  }
}

// Whoever uses the keyboard reaches everything, and sees where they are.
await open(paths[0]);
const stops = [];
for (let stop = 0; stop < 60; stop++) {
  await press("Tab", 9);
  const at = await evaluate(
    "(() => { const e = document.activeElement, s = getComputedStyle(e); return { name: e.textContent.trim().slice(0, 40), tag: e.tagName, outline: s.outlineStyle, isIn: e.getBoundingClientRect().left >= 0 }; })()",
  );
  if (at.tag === "BODY") break;
  stops.push(at);
}
console.log(JSON.stringify({ login, pages, stops, complaints }));
socket.close();
browser.removeAllListeners("exit");
browser.kill();
await Promise.race([new Promise((resolve) => browser.on("exit", resolve)), sleep(5000)]);
