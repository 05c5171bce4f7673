// The live log of one invocation.
//
// An app may print thousands of lines per second: they are added in batches, and only the last ones are kept.

import { events } from "/page/api.js";

const MAX_LINES = 5_000;
const MAX_CHARACTERS = 4_000_000;
const MAX_LINE = 10_000;
const BATCH_MILLISECONDS = 80;
const RETRY_MILLISECONDS = 1_000;
const COLOURS = /\x1b\[[0-9;:]*m/g;

const box = document.getElementById("log");
const note = document.getElementById("log-note");
const toEnd = document.getElementById("log-end");

let source = null; // the invocation whose log is shown
let pending = [];
let isScheduled = false;
let shown = 0;
let characters = 0;
let dropped = 0;
let isFollowing = true; // the end
let lastTop = 0;

/** Show the log of an invocation; call `onState` with each state that its stream tells. */
export function openLog(id, onState) {
  closeLog();
  source = { id, onState, since: null, hasEnded: false, abort: null };
  follow(source);
}

/** Show no log. */
export function closeLog() {
  source?.abort?.abort();
  source = null;
  pending = [];
  shown = characters = dropped = 0;
  box.replaceChildren();
  note.textContent = "";
  setFollowing(true);
}

async function follow(from) {
  // A browser keeps at most six connections to a server; tabs that nobody sees must not use them up.
  if (from.hasEnded || from.abort || document.hidden) return;
  from.abort = new AbortController();
  try {
    for await (const batch of events(from.id, from.since, from.abort.signal)) {
      if (from !== source) return;
      take(from, batch);
    }
  } catch (error) {
    if (from === source && error.status === 404) from.hasEnded = true; // The page says so elsewhere.
  }
  from.abort = null;
  if (from === source && !from.hasEnded) setTimeout(() => from === source && follow(from), RETRY_MILLISECONDS);
  if (from === source) schedule();
}

function take(from, batch) {
  const again = from.since;
  for (const event of batch) {
    if (event.event === "log") {
      if (event.timestamp === again) continue; // A stream that is opened again begins with the last line.
      from.since = event.timestamp;
      pending.push(event);
    } else if (event.event === "invocation_state") {
      from.hasEnded = ["succeeded", "failed"].includes(event.invocation.status);
      from.onState(event.invocation);
    }
  }
  if (pending.length > MAX_LINES) {
    dropped += pending.length - MAX_LINES;
    pending = pending.slice(-MAX_LINES);
  }
  schedule();
}

function schedule() {
  if (isScheduled) return;
  isScheduled = true;
  setTimeout(() => requestAnimationFrame(flush), BATCH_MILLISECONDS);
}

function flush() {
  isScheduled = false;
  if (source === null) return;
  const lines = pending.map(lineOf);
  pending = [];
  for (const line of lines) characters += line.textContent.length;
  shown += lines.length;
  box.append(...lines);
  while (shown > MAX_LINES || characters > MAX_CHARACTERS) {
    characters -= box.firstChild.textContent.length;
    box.firstChild.remove();
    shown -= 1;
    dropped += 1;
  }
  if (isFollowing) box.scrollTop = box.scrollHeight;
  showNote();
}

function lineOf({ timestamp, message }) {
  const line = document.createElement("div");
  const text = message.replace(COLOURS, "");
  line.textContent = text.length > MAX_LINE ? `${text.slice(0, MAX_LINE)} … ${text.length - MAX_LINE} more characters` : text;
  line.dataset.time = new Date(timestamp).toLocaleTimeString("en-GB");
  return line;
}

function showNote() {
  if (shown) {
    note.textContent = dropped ? `the last ${shown} of ${shown + dropped} lines` : `${shown} line${shown === 1 ? "" : "s"}`;
  } else {
    note.textContent = source.hasEnded ? "the app printed nothing" : "nothing yet";
  }
}

function setFollowing(value) {
  isFollowing = value;
  toEnd.hidden = value;
}

box.addEventListener("scroll", () => {
  // The first pixel upwards counts: browsers scroll in steps, and a new line must not pull the reader back.
  if (box.scrollHeight - box.scrollTop - box.clientHeight < 2) setFollowing(true);
  else if (box.scrollTop < lastTop) setFollowing(false);
  lastTop = box.scrollTop;
}, { passive: true });
toEnd.addEventListener("click", () => {
  setFollowing(true);
  box.scrollTop = box.scrollHeight;
  box.focus();
});
document.addEventListener("visibilitychange", () => {
  if (source === null) return;
  if (document.hidden) source.abort?.abort();
  else follow(source);
});
