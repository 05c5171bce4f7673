// Runs a Playwright script against a browser: what POST /browsers/{id}/playwright/execute is given.
// Standard input has one JSON object; the answer goes to the descriptor that it names, what the script prints to stdout and stderr.
import * as modules from "node:module";
import { readFileSync, writeSync } from "node:fs";
import { inspect } from "node:util";

const { code, url, target, playwright, answer: descriptor } = JSON.parse(readFileSync(0, "utf8"));
const { chromium } = modules.createRequire(import.meta.url)(playwright);

function answer(data) {
  const bytes = Buffer.from(JSON.stringify(data));
  for (let sent = 0; sent < bytes.length; ) sent += writeSync(descriptor, bytes, sent);
  process.exit(0);
}

function describe(error) {
  return error instanceof Error ? `${error.name}: ${error.message}` : inspect(error);
}

async function findPage(browser) {
  for (const context of browser.contexts()) {
    for (const page of context.pages()) {
      const session = await context.newCDPSession(page);
      const { targetInfo } = await session.send("Target.getTargetInfo");
      await session.detach();
      if (targetInfo.targetId === target) return page;
    }
  }
  return browser.contexts()[0].pages()[0] ?? (await browser.contexts()[0].newPage());
}

process.on("unhandledRejection", (error) => answer({ success: false, error: describe(error) }));
process.on("uncaughtException", (error) => answer({ success: false, error: describe(error) }));
// Node warns that taking types away is experimental; that is not the script's output.
process.removeAllListeners("warning");
try {
  let source = `(async function script(page, context, browser) {\n${code}\n})`;
  // A Node that cannot take types away runs JavaScript alone.
  if (modules.stripTypeScriptTypes) source = modules.stripTypeScriptTypes(source);
  const script = (0, eval)(source);
  const browser = await chromium.connectOverCDP(url);
  const page = await findPage(browser);
  const result = await script(page, page.context(), browser);
  answer({ success: true, result });
} catch (error) {
  answer({ success: false, error: describe(error) });
}
