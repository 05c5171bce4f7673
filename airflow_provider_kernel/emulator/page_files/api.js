// Calls of the emulator's API, and the key that they need.

const DEFAULT_KEY = "sk_emulator";
const STORED = "kernel-emulator-key";
const dialog = document.getElementById("key-dialog");
const keyField = document.getElementById("key");
const keyError = document.getElementById("key-error");
let asking = null;

/** A refused or failed call. `status` is 0 if the emulator cannot be reached. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Return the API key; the default one is good for an emulator that accepts any. */
export function apiKey() {
  return sessionStorage.getItem(STORED) ?? DEFAULT_KEY;
}

/** Return whether the key is the one that the emulator tells everybody. */
export function isDefaultKey() {
  return apiKey() === DEFAULT_KEY;
}

/** Call the API; return the decoded JSON, or null for an answer without a body. */
export async function call(method, path, body) {
  const reply = await send(method, path, { body: body === undefined ? undefined : JSON.stringify(body) });
  return reply.status === 204 ? null : reply.json();
}

/** Yield the events of an invocation in lists, as they arrive. */
export async function* events(id, since, signal) {
  const query = since ? `?since=${encodeURIComponent(since)}` : "";
  const reply = await send("GET", `/invocations/${id}/events${query}`, { signal });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const pieces = (rest + value).split("\n\n");
    rest = pieces.pop();
    yield pieces.map((piece) => JSON.parse(piece.slice("data: ".length)));
  }
}

async function send(method, path, options) {
  for (;;) {
    const key = apiKey();
    const headers = { Authorization: `Bearer ${key}` };
    if (options.body !== undefined) headers["Content-Type"] = "application/json";
    let reply;
    try {
      reply = await fetch(path, { ...options, method, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The emulator cannot be reached.");
    }
    if (reply.ok) return reply;
    if (reply.status !== 401) throw new ApiError(reply.status, await messageOf(reply));
    await otherKey(key);
  }
}

async function messageOf(reply) {
  try {
    const { message } = await reply.json();
    return `${String(message).replace(/\.$/, "")}.`;
  } catch {
    return `The emulator answered with status ${reply.status}.`;
  }
}

/** Wait until the key is not the refused one. */
function otherKey(refused) {
  if (apiKey() !== refused) return Promise.resolve();
  asking ??= new Promise((resolve) => {
    keyError.textContent = sessionStorage.getItem(STORED) === null ? "" : "The emulator refused this key.";
    keyField.value = "";
    dialog.showModal();
    document.getElementById("key-form").onsubmit = (event) => {
      event.preventDefault();
      const key = keyField.value.trim();
      // No header can hold other characters.
      if (!/^[!-~]+$/.test(key)) {
        keyError.textContent = "A key is ASCII text without spaces.";
        return;
      }
      sessionStorage.setItem(STORED, key);
      asking = null;
      dialog.close();
      resolve();
    };
  });
  return asking;
}

// Nothing works without a key, so that Escape must not close the dialog.
dialog.addEventListener("cancel", (event) => event.preventDefault());
