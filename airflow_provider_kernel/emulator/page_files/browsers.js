// The browsers, with their live picture.

import { call } from "/page/api.js";
import { moment } from "/page/text.js";

const section = document.getElementById("browsers");
const title = document.getElementById("browsers-title");
const holder = document.getElementById("browser-cards");
const note = document.getElementById("browsers-note");
const problem = document.getElementById("browsers-error");
const template = document.getElementById("browser-card");
const cards = new Map();

/** Ask for the browsers and show them; with `id`, those of that invocation only. */
export async function refreshBrowsers(id) {
  const [all, own] = await Promise.all([listAll(), id === null ? null : listOwn(id)]);
  const found = new Map([...all, ...(own ?? [])].map((browser) => [browser.session_id, browser]));
  for (const [sessionId, card] of cards) {
    if (!found.has(sessionId)) {
      card.remove();
      cards.delete(sessionId);
    }
  }
  const wanted = new Set((own ?? all).map((browser) => browser.session_id));
  for (const [sessionId, browser] of found) {
    // A card stays as long as its browser lives: a new frame would load the picture again.
    if (!cards.has(sessionId)) {
      cards.set(sessionId, cardOf(browser));
      holder.append(cards.get(sessionId));
    }
    cards.get(sessionId).hidden = !wanted.has(sessionId);
  }
  title.textContent = id === null ? "Browsers" : "Browsers of this invocation";
  note.hidden = wanted.size > 0;
  section.hidden = id !== null && wanted.size === 0;
}

async function listAll() {
  try {
    return await call("GET", "/browsers?limit=100");
  } catch (error) {
    if (error.status === 0) throw error;
    return [];
  }
}

async function listOwn(id) {
  try {
    return (await call("GET", `/invocations/${id}/browsers`)).browsers;
  } catch (error) {
    if (error.status === 0) throw error;
    return [];
  }
}

function cardOf(browser) {
  const card = template.content.cloneNode(true).firstElementChild;
  const name = browser.name || browser.session_id;
  card.querySelector("h3").textContent = name;
  card.querySelector("p").textContent = [
    `since ${moment(browser.created_at)}`,
    browser.headless ? "headless" : "",
    browser.stealth ? "stealth" : "",
    browser.timeout_seconds ? `ends after ${browser.timeout_seconds} s without use` : "",
  ].filter(Boolean).join(" · ");
  const picture = card.querySelector(".picture");
  const { width, height } = browser.viewport;
  picture.style.setProperty("--width", width);
  picture.style.setProperty("--height", height);
  const open = card.querySelector("a");
  const url = browser.browser_live_view_url?.match(/^https?:.*/)?.[0];
  if (url) {
    open.href = url;
    picture.append(frameOf(url, name));
  } else {
    open.remove();
    picture.textContent = "A headless browser has no live view.";
  }
  const close = card.querySelector("button");
  close.addEventListener("click", () => end(browser.session_id, close));
  return card;
}

function frameOf(url, name) {
  const frame = document.createElement("iframe");
  frame.loading = "lazy";
  frame.title = `Live picture of the browser ${name}`;
  frame.tabIndex = -1; // It is a picture; "Open live view" leads to the view that takes clicks and keys.
  frame.src = `${url}&thumbnail`; // Which is no use of the browser, and keeps it from no time limit.
  return frame;
}

async function end(sessionId, button) {
  button.disabled = true;
  problem.textContent = "";
  try {
    await call("DELETE", `/browsers/${encodeURIComponent(sessionId)}`);
    cards.get(sessionId)?.remove();
    cards.delete(sessionId);
  } catch (error) {
    problem.textContent = error.message;
    button.disabled = false;
  }
}
