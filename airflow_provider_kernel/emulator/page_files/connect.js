// How clients find the emulator.

import { apiKey, isDefaultKey } from "/page/api.js";
import { copyText, showFacts } from "/page/shown.js";

/** Show the settings. A key that was asked for is not shown. */
export function showConnect() {
  const url = location.origin;
  const key = isDefaultKey() ? apiKey() : "<the key of --api-key>";
  const dashboard = `${url}/#/invocations/{invocation_id}`;
  const connection = JSON.stringify(
    { conn_type: "kernel", host: url, password: key, extra: { dashboard_url: dashboard } },
  );
  const quoted = isDefaultKey() ? key : `'${key}'`;
  document.getElementById("connect-sdk").textContent = `export KERNEL_BASE_URL=${url} KERNEL_API_KEY=${quoted}`;
  document.getElementById("connect-airflow").textContent = `export AIRFLOW_CONN_KERNEL_DEFAULT='${connection}'`;
  showFacts(document.getElementById("connect-form"), [
    ["Connection Type", "Kernel"],
    ["API address", url],
    ["Token", key],
    ["Dashboard address", dashboard],
  ]);
}

for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", () => copyText(button, document.getElementById(button.dataset.copies).textContent));
}
