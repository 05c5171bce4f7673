// What several parts of the page show in the same way: statuses, durations that tick, texts, copying.

import { duration, prettyJson } from "/page/text.js";

const MAX_SHOWN = 200_000;
/** How far the emulator's clock is ahead of the browser's, in milliseconds. */
let ahead = 0;

/** Set the emulator's time. */
export function setClock(now) {
  ahead = Date.parse(now) - Date.now();
}

/** Show a status, as text and by a class. */
export function showStatus(element, status) {
  element.textContent = status;
  element.className = `status ${["queued", "running", "succeeded", "failed"].includes(status) ? status : ""}`;
}

/** Show the duration of an invocation; it ticks until the invocation has ended. */
export function showSpan(element, { started_at: started, finished_at: finished }) {
  if (finished) {
    delete element.dataset.since;
    element.textContent = duration(Date.parse(finished) - Date.parse(started), true);
  } else {
    element.dataset.since = Date.parse(started);
    tickOne(element);
  }
}

/** Move the durations on. */
export function tick() {
  document.querySelectorAll("[data-since]").forEach(tickOne);
}

function tickOne(element) {
  element.textContent = duration(Date.now() + ahead - Number(element.dataset.since), false);
}

/** Show a payload or an output, formatted if it is JSON; `copy` is the button that copies it as it is. */
export function showValue(element, copy, text) {
  copy.hidden = text === undefined;
  copy.onclick = () => copyText(copy, text);
  if (text === undefined) {
    element.textContent = "none";
    element.classList.add("muted");
    return;
  }
  element.classList.remove("muted");
  const whole = prettyJson(text) ?? text;
  const more = whole.length - MAX_SHOWN;
  element.textContent = more > 0 ? `${whole.slice(0, MAX_SHOWN)}\n… ${more} more characters; Copy has them all` : whole;
}

/** Copy a text, and say so on the button for a moment. */
export async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed"; // By the browser, on an address that is neither https nor this machine.
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

/** Fill a description list with pairs of term and text or element. */
export function showFacts(list, facts) {
  list.replaceChildren(
    ...facts.flatMap(([term, value]) => {
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      dt.textContent = term;
      dd.append(value); // A string becomes a text node.
      return [dt, dd];
    }),
  );
}
