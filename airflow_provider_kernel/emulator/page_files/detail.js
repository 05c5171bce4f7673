// The details of one invocation.

import { call } from "/page/api.js";
import { closeLog, openLog } from "/page/log.js";
import { showFacts, showSpan, showStatus, showValue } from "/page/shown.js";
import { moment } from "/page/text.js";

const part = (name) => document.getElementById(name);
const head = part("detail-head");
const body = part("detail-body");
const title = part("detail-title");
const badge = part("detail-status");
const problem = part("detail-error");
const cancel = part("cancel");
let shownId = null;
let shownStatus = null; // "unknown" if the emulator does not know the invocation
let loading = null; // the id that is asked for

/** Show an invocation; null for none. */
export function showDetail(id) {
  if (id === shownId) return;
  shownId = id;
  shownStatus = null;
  head.hidden = id === null;
  body.hidden = true;
  problem.textContent = "";
  title.textContent = id ?? "";
  showStatus(badge, "");
  cancel.hidden = true;
  showFacts(part("detail-facts"), []);
  closeLog();
  document.title = "Kernel emulator";
  if (id !== null) load(id);
}

/** Tell a status that was seen elsewhere; undefined if the invocation is not among the newest, or forgotten. */
export function noteStatus(id, status) {
  if (id !== shownId || id === loading || status === shownStatus) return;
  if (status !== undefined || shownStatus === null || isActive(shownStatus)) load(id);
}

function isActive(status) {
  return status === "queued" || status === "running";
}

async function load(id) {
  let invocation;
  loading = id;
  try {
    invocation = await call("GET", `/invocations/${id}`);
  } catch (error) {
    if (id !== shownId) return;
    problem.textContent = error.message;
    if (error.status === 404) {
      shownStatus = "unknown";
      showStatus(badge, "");
      cancel.hidden = true;
      problem.textContent =
        "There is no such invocation. The emulator forgets its invocations when it stops, and the oldest when there are many.";
    }
    return;
  } finally {
    if (loading === id) loading = null;
  }
  if (id !== shownId) return;
  problem.textContent = "";
  show(invocation);
  if (body.hidden) {
    body.hidden = false;
    openLog(id, (state) => noteStatus(id, state.status));
  }
}

function show(invocation) {
  shownStatus = invocation.status;
  title.textContent = `${invocation.app_name}.${invocation.action_name}`;
  document.title = `${invocation.status}: ${title.textContent} – Kernel emulator`;
  showStatus(badge, invocation.status);
  cancel.hidden = !isActive(invocation.status);
  const span = document.createElement("span");
  showSpan(span, invocation);
  const id = document.createElement("code");
  id.textContent = invocation.id;
  const facts = [
    ["Id", id], ["Start", moment(invocation.started_at)], ["Duration", span], ["Version", invocation.version],
  ];
  if (invocation.status_reason) facts.push(["Reason", invocation.status_reason]);
  showFacts(part("detail-facts"), facts);
  showValue(part("input"), part("input-copy"), invocation.payload);
  showValue(part("output"), part("output-copy"), invocation.output);
}

cancel.addEventListener("click", async () => {
  const id = shownId;
  cancel.disabled = true;
  try {
    await call("PATCH", `/invocations/${id}`, { status: "failed" });
  } catch (error) {
    if (id === shownId) problem.textContent = error.message;
  } finally {
    cancel.disabled = false;
  }
  if (id === shownId) load(id);
});
