// The list of invocations, newest first.

import { call } from "/page/api.js";
import { showSpan, showStatus } from "/page/shown.js";
import { moment } from "/page/text.js";

const list = document.getElementById("invocations");
const note = document.getElementById("invocations-note");
const template = document.getElementById("invocation-row");
const rows = new Map();

/** Ask for the invocations and show them. Return them by id, and the emulator's time. */
export async function refreshInvocations() {
  const { invocations, now, total } = await call("GET", "/page/invocations");
  const kept = new Set(invocations.map((invocation) => invocation.id));
  for (const [id, row] of rows) {
    if (!kept.has(id)) {
      row.remove();
      rows.delete(id);
    }
  }
  // From the oldest on; each new one goes to the top. Rows that are there stay: they may have the focus.
  for (const invocation of [...invocations].reverse()) {
    let row = rows.get(invocation.id);
    if (!row) {
      row = rowOf(invocation);
      rows.set(invocation.id, row);
      list.prepend(row);
    }
    showStatus(row.querySelector(".status"), invocation.status);
    showSpan(row.querySelector(".duration"), invocation);
  }
  const isCut = total > invocations.length;
  note.textContent = isCut ? `The newest ${invocations.length} of ${total}` : "None yet";
  note.hidden = invocations.length > 0 && !isCut;
  return { byId: new Map(invocations.map((invocation) => [invocation.id, invocation])), now };
}

/** Mark the row of the invocation that is shown; null for none. */
export function markRow(id) {
  for (const [rowId, row] of rows) {
    const link = row.querySelector("a");
    if (rowId === id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function rowOf(invocation) {
  const row = template.content.cloneNode(true).firstElementChild;
  row.querySelector("a").href = `#/invocations/${invocation.id}`;
  row.querySelector(".name").textContent = `${invocation.app_name}.${invocation.action_name}`;
  const time = row.querySelector("time");
  time.textContent = moment(invocation.started_at);
  time.dateTime = invocation.started_at;
  return row;
}
