// Imports an app file under the user's Node.js, and lists its apps or runs one action.
//
//     node node_runner.mjs FILE ANSWER            answers {"apps": [[name, [action, …]], …]}
//     node node_runner.mjs FILE ANSWER REQUEST    answers as worker.py does
//
// FILE is an absolute path; ANSWER and REQUEST are descriptors. The answer is JSON text. {"error": text} means that the file
// cannot be imported; the text continues a sentence that begins with the file's path.

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, realpathSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, delimiter, dirname, join } from "node:path";
import { Writable } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";
import { inspect, types } from "node:util";

const SDK = "@onkernel/sdk";
// As in worker.py.
const MAX_OUTPUT = 16 * 2 ** 20;
const MAX_ERROR = 64 * 2 ** 10;

const [file, answerDescriptor, requestDescriptor] = process.argv.slice(2);
// Kernel has its TypeScript apps in this folder, and apps look at the path to see that no person started them.
process.argv = [process.execPath, `/boot-node/${basename(file)}`];
for (const stream of [process.stdout, process.stderr]) {
  stream._handle?.setBlocking?.(true); // Otherwise process.exit() loses what a full pipe has not yet taken.
}
let isRunning = false;
process.once("beforeExit", onDeadlock);
finish(requestDescriptor === undefined ? await describe() : await invoke(JSON.parse(readFileSync(+requestDescriptor, "utf8"))));

// The import or the action waits, and no timer, socket or process is left that could continue it.
function onDeadlock() {
  const reason = "The action cannot return: nothing is left that it could wait for.";
  finish(isRunning ? { reason } : notImported(": the import cannot end: nothing is left that it could wait for"));
}

function notImported(error) {
  return requestDescriptor === undefined ? { error } : { reason: `The app file can no longer be imported${error}.` };
}

async function describe() {
  const { apps, error } = await load();
  return error ? notImported(error) : { apps: apps.map((app) => [app.name, [...app.actions.keys()]]) };
}

async function invoke(request) {
  const { apps, error } = await load();
  if (error) return notImported(error);
  const action = apps.find((app) => app.name === request.app_name)?.actions.get(request.action_name);
  if (!action) return { reason: "The app file no longer defines the action. Start the emulator again." };
  const payload = request.payload === null ? undefined : JSON.parse(request.payload);
  let result;
  isRunning = true;
  try {
    result = await action.handler({ invocation_id: request.id }, payload);
  } catch (error) {
    printError(error);
    return { reason: "The action raised an exception.", output: describeError(error).slice(0, MAX_ERROR) };
  }
  return serialize(result);
}

function serialize(result) {
  let text;
  try {
    text = result === undefined ? "null" : JSON.stringify(result);
    if (text === undefined) throw new TypeError(`it is of type ${typeof result}`);
  } catch (error) {
    return { reason: `The action returned a value that is not JSON: ${`${error?.message ?? error}`.split("\n")[0]}.` };
  }
  if (text.length > MAX_OUTPUT) return { reason: `The action returned more than ${MAX_OUTPUT / 2 ** 20} MiB.` };
  return { output: text };
}

// Sends the answer and ends this process, whatever timers, servers and exit handlers the app has left.
async function finish(answer) {
  process.off("beforeExit", onDeadlock);
  for (const stream of [process.stdout, process.stderr]) {
    // The app may have replaced write(), or ended the stream.
    await new Promise((done) => Writable.prototype.write.call(stream.on("error", done), "", done));
  }
  const bytes = Buffer.from(JSON.stringify(answer));
  for (let sent = 0; sent < bytes.length; ) sent += writeSync(+answerDescriptor, bytes, sent);
  process.kill(process.pid, "SIGKILL");
}

// Imports the app file. Returns its apps, or the error.
async function load() {
  const require = createRequire(file);
  let registries;
  try {
    registries = await importSdk(require);
  } catch (error) {
    if (error.code !== "MODULE_NOT_FOUND") return { error: `: ${SDK} cannot be imported: ${oneLine(describeError(error))}` };
    return { error: `: ${SDK} is not installed. Run ${installCommand()}` };
  }
  const isTypeScript = /\.[cm]?ts$/.test(file);
  const tsx = isTypeScript && findTsx(require);
  if (isTypeScript && !tsx && !process.features.typescript) {
    const advice = `Run npm install tsx in ${packageFolder()}, or install Node.js 22.18 or newer`;
    return { error: `: Node.js ${process.version} cannot import TypeScript. ${advice}` };
  }
  try {
    if (tsx) await importTsx(tsx);
    await import(pathToFileURL(file));
  } catch (error) {
    const advice = !tsx && needsTsx(error) ? `. tsx can import it: run npm install tsx in ${packageFolder()}` : "";
    return { error: describeImportError(error) + advice };
  }
  return { apps: registries.flatMap((registry) => registry.getApps()) };
}

// Imports both builds of the SDK, since an app may import either; returns their registries. The SDK would silently keep the
// second of two apps of one name.
async function importSdk(require) {
  const path = require.resolve(SDK);
  const builds = [require(SDK)];
  const esm = path.replace(/\.js$/, ".mjs");
  if (esm !== path && existsSync(esm)) builds.push(await import(pathToFileURL(esm)));
  const names = new Set();
  return builds.map(({ appRegistry }) => {
    const register = appRegistry.registerApp.bind(appRegistry);
    appRegistry.registerApp = (app) => {
      if (names.has(app.name)) throw new Error(`two apps are named '${app.name}'`);
      names.add(app.name);
      register(app);
    };
    return appRegistry;
  });
}

// Returns the path of tsx, which the app or the user has installed; undefined if there is none.
function findTsx(require) {
  const programs = (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, "tsx"));
  const owners = programs.filter((program) => existsSync(program)).map((program) => createRequire(realpathSync(program)));
  for (const owner of [require, ...owners]) {
    try {
      return owner.resolve("tsx");
    } catch {} // Not installed there.
  }
}

// From here on, Node.js imports TypeScript as tsx does.
async function importTsx(path) {
  const given = process.env.TSX_TSCONFIG_PATH;
  const folder = upwards((it) => existsSync(join(it, "tsconfig.json")));
  // tsx would look for the file in the working directory.
  if (given === undefined && folder) process.env.TSX_TSCONFIG_PATH = join(folder, "tsconfig.json");
  await import(pathToFileURL(path));
  if (given === undefined) delete process.env.TSX_TSCONFIG_PATH;
}

// Tells whether Node.js alone failed at enumerations and the like, or at an import without the suffix .ts.
function needsTsx(error) {
  if (["ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX", "ERR_UNSUPPORTED_DIR_IMPORT"].includes(error?.code)) return true;
  const missing = /^Cannot find module '(\/[^']*)'/.exec(error?.message)?.[1];
  return missing !== undefined && [`${missing}.ts`, missing.replace(/js$/, "ts")].some((path) => existsSync(path));
}

function upwards(condition) {
  for (let folder = dirname(file); ; folder = dirname(folder)) {
    if (condition(folder)) return folder;
    if (folder === dirname(folder)) return undefined;
  }
}

function packageFolder() {
  return upwards((folder) => existsSync(join(folder, "package.json"))) ?? dirname(file);
}

function installCommand() {
  const folder = packageFolder();
  let listed = false;
  try {
    const { dependencies = {}, devDependencies = {} } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    listed = SDK in dependencies || SDK in devDependencies;
  } catch {} // No package.json, or none that can be read.
  return `npm install${listed ? "" : ` ${SDK}`} in ${folder}`;
}

// Returns line and reason; if the app file only called the code that failed, the place of that code too.
function describeImportError(error) {
  const syntax = syntaxError(error);
  const places = syntax ? [syntax] : stackPlaces(error);
  const line = places.find((place) => place.path === file)?.line;
  const [last] = places;
  const where = last && last.path !== file ? ` (${last.path}, line ${last.line})` : "";
  return `${line === undefined ? "" : `, line ${line}`}: ${oneLine(syntax?.reason ?? describeError(error))}${where}`;
}

// Returns place and reason of a syntax error; undefined if it is another error, or if the place is unknown.
function syntaxError(error) {
  const match = /^(\/.*):(\d+):\d+: ERROR: (.*)$/m.exec(error?.message); // as esbuild, which tsx uses, writes it
  if (match) return { path: match[1], line: match[2], reason: `SyntaxError: ${match[3]}` };
  if (!(error instanceof SyntaxError)) return undefined;
  const place = /^(?:file:\/\/)?(\/.*):(\d+)$/m;
  let found = place.exec(error.stack);
  if (!found && file.endsWith("js")) {
    // Of an ES module Node.js prints the place, and does not tell it to whoever catches the error.
    found = place.exec(spawnSync(process.execPath, ["--check", file], { encoding: "utf8" }).stderr);
  }
  return found && { path: found[1], line: found[2], reason: describeError(error) };
}

function stackPlaces(error) {
  const places = [];
  for (const frame of stackLines(error).filter((line) => !line.includes(`/${SDK}/`))) {
    const match = /^\s+at (?:.*\()?((?:file:\/\/)?\/[^()]*):(\d+):\d+\)?$/.exec(frame);
    if (match) places.push({ path: match[1].startsWith("file:") ? fileURLToPath(match[1]) : match[1], line: match[2] });
  }
  return places;
}

function describeError(error) {
  try {
    if (!isError(error)) return typeof error === "string" ? error : inspect(error);
    const name = error.name === "Error" ? error.constructor.name : error.name;
    return error.message ? `${name}: ${error.message}` : name;
  } catch {
    return "Error: the error cannot be described"; // Its properties may be code that throws.
  }
}

function printError(error) {
  try {
    console.error(stackText(error));
  } catch {} // As above, or the action has replaced the console.
}

// Returns errors and stacks, of the causes too. Other properties may hold secrets, such as the headers of a request.
function stackText(error, depth = 0) {
  const stack = isError(error) ? stackLines(error) : [];
  const causes = isError(error) && depth < 8 ? [error.cause, ...(error.errors ?? [])].filter(isError) : [];
  return [describeError(error), ...stack, ...causes.map((cause) => `Caused by: ${stackText(cause, depth + 1)}`)].join("\n");
}

// Returns the lines of a stack, without those of this file, of tsx, and of the part of the SDK that calls actions.
function stackLines(error) {
  const hidden = [import.meta.url, fileURLToPath(import.meta.url), "/@onkernel/sdk/core/app-framework.", "/node_modules/tsx/"];
  const lines = `${error?.stack}`.split("\n").filter((line) => /^\s+at /.test(line));
  return lines.filter((line) => !hidden.some((text) => line.includes(text)));
}

function isError(value) {
  return value instanceof Error || types.isNativeError(value);
}

function oneLine(text) {
  return text.trim().replace(/\s+/g, " ");
}
