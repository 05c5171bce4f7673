// The page of the emulator: what is shown, and when it is asked for.
//
// Whatever comes from an app (names, logs, outputs) enters the page as text, never as HTML.

import { refreshBrowsers } from "/page/browsers.js";
import { showConnect } from "/page/connect.js";
import { noteStatus, showDetail } from "/page/detail.js";
import { markRow, refreshInvocations } from "/page/invocations.js";
import { refreshApps } from "/page/run.js";
import { setClock, tick } from "/page/shown.js";

const POLL_MILLISECONDS = 1_000;
/** Apps change only when the emulator starts again. */
const POLLS_PER_APPS = 5;

const connection = document.getElementById("connection");
let polls = 0;
let isPolling = false;
let isStale = false;
let timer = null;

/** Return the id of the invocation that the address names, or null. */
function wantedId() {
  return /^#\/invocations\/([\w-]+)$/.exec(location.hash)?.[1] ?? null;
}

function showRoute() {
  const id = wantedId();
  document.body.classList.toggle("has-detail", id !== null);
  document.getElementById("connect").hidden = id !== null;
  showDetail(id);
  markRow(id);
}

function showConnection(text, kind) {
  if (connection.textContent === text) return; // A screen reader says each change.
  connection.textContent = text;
  connection.className = kind;
}

async function poll() {
  clearTimeout(timer);
  isStale = isPolling;
  if (isPolling || document.hidden) return;
  isPolling = true;
  try {
    if (polls++ % POLLS_PER_APPS === 0) {
      await refreshApps();
      showConnect();
    }
    const id = wantedId();
    const { byId, now } = await refreshInvocations();
    setClock(now);
    markRow(wantedId());
    if (id !== null) noteStatus(id, byId.get(id)?.status);
    await refreshBrowsers(id);
    showConnection("Connected", "good");
  } catch (error) {
    showConnection(error.status === 0 ? "Not reachable; trying again" : error.message, "bad");
    polls = 0;
  } finally {
    isPolling = false;
  }
  timer = setTimeout(poll, isStale ? 0 : POLL_MILLISECONDS);
}

window.addEventListener("hashchange", () => {
  showRoute();
  poll();
});
document.addEventListener("visibilitychange", poll);
setInterval(() => document.hidden || tick(), 1_000);
showRoute();
poll();
