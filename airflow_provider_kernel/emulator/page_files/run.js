// The form that runs an action.

import { call } from "/page/api.js";

const form = document.getElementById("run");
const apps = document.getElementById("apps");
const payload = document.getElementById("payload");
const limit = document.getElementById("time-limit");
const problem = document.getElementById("run-error");
const LAST_ACTION = "kernel-emulator-action";
let listed = null;

/** Ask for the apps, and show them if they have changed. */
export async function refreshApps() {
  const found = await call("GET", "/apps?limit=100");
  const text = JSON.stringify(found.map((app) => [app.app_name, app.version, app.actions.map((action) => action.name)]));
  if (text === listed) return;
  listed = text;
  const wanted = chosen()?.value ?? localStorage.getItem(LAST_ACTION);
  const versions = (name) => found.filter((app) => app.app_name === name).length;
  apps.replaceChildren(...found.map((app) => groupOf(app, versions(app.app_name) > 1)));
  const choices = [...form.elements.action ? form.querySelectorAll("input[name=action]") : []];
  const choice = choices.find((input) => input.value === wanted) ?? choices[0];
  if (choice) {
    choice.checked = true;
    payload.value = remembered();
  }
}

function groupOf(app, hasVersions) {
  const group = document.createElement("fieldset");
  const title = document.createElement("legend");
  title.textContent = hasVersions ? `${app.app_name} (version ${app.version})` : app.app_name;
  group.append(title, ...app.actions.map((action) => choiceOf(app.app_name, action.name, app.version)));
  return group;
}

function choiceOf(appName, actionName, version) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "radio";
  input.name = "action";
  input.value = JSON.stringify([appName, actionName, version]);
  const name = document.createElement("span");
  name.textContent = actionName;
  label.append(input, name);
  return label;
}

function chosen() {
  return form.querySelector("input[name=action]:checked");
}

/** Return the name under which the payload of the chosen action is remembered, the same for all its versions. */
function storedName() {
  return `kernel-emulator-payload ${JSON.stringify(JSON.parse(chosen().value).slice(0, 2))}`;
}

function remembered() {
  return localStorage.getItem(storedName()) ?? "";
}

function remember() {
  try {
    localStorage.setItem(storedName(), payload.value);
    localStorage.setItem(LAST_ACTION, chosen().value);
  } catch {
    // The storage is full; the payload is not remembered.
  }
}

function showProblem(text) {
  problem.textContent = text;
}

async function run() {
  const text = payload.value.trim();
  if (text) {
    try {
      JSON.parse(text);
    } catch (error) {
      payload.setAttribute("aria-invalid", "true");
      payload.focus();
      showProblem(`The payload is not JSON: ${error.message}.`);
      return;
    }
  }
  const [app_name, action_name, version] = JSON.parse(chosen().value);
  const body = { app_name, action_name, version, async: true, async_timeout_seconds: limit.valueAsNumber };
  if (text) body.payload = text;
  remember();
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const { id } = await call("POST", "/invocations", body);
    location.hash = `#/invocations/${id}`;
  } catch (error) {
    showProblem(error.message);
  } finally {
    button.disabled = false;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  clear();
  if (chosen()) run();
});
form.addEventListener("input", (event) => {
  clear();
  if (event.target === payload && chosen()) remember();
});
apps.addEventListener("change", () => (payload.value = remembered()));
payload.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

function clear() {
  payload.removeAttribute("aria-invalid");
  showProblem("");
}
