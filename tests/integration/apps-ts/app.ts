// The app "ts": one action for each way in which an invocation of a TypeScript app can go.

import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { Kernel, type KernelContext } from "@onkernel/sdk";
import { doubled } from "./helper";

// Node.js alone, which only removes types, imports neither an enumeration nor a file without its suffix.
enum Kind {
  Function = "function",
  BigInt = "bigint",
  Circle = "circle",
  Throws = "throws",
}

class Refused extends Error {
  token = "sk_secret";
}

const kernel = new Kernel();
const app = kernel.app("ts");

app.action("echo", async (context: KernelContext, payload?: unknown) => payload);

app.action("double", async (context: KernelContext, payload?: { n: number }) => doubled(payload!.n));

app.action("context", async (context: KernelContext) => ({
  ...context,
  status: (await kernel.invocations.retrieve(context.invocation_id)).status,
}));

app.action("surroundings", async (context: KernelContext) => ({
  argv: process.argv,
  cwd: process.cwd(),
  env: process.env,
  stdin: readFileSync(0, "utf8"),
}));

// Prints to both streams, and waits until there is a file.
app.action("wait", async (context: KernelContext, payload?: { file: string }) => {
  console.log("waiting for", payload!.file.length > 0);
  console.error("to stderr");
  while (!existsSync(payload!.file)) await new Promise((done) => setTimeout(done, 10));
  process.stdout.write("no newline");
  return "waited";
});

app.action("fail", async (context: KernelContext, payload?: { message: string }) => {
  throw new Refused(payload!.message, { cause: new RangeError("the cause") });
});

app.action("fail_with_text", async (context: KernelContext) => {
  throw "just text";
});

app.action("exit", async (context: KernelContext, payload?: { code: number }) => {
  for (let line = 0; line < 10; line++) console.log(`${line}`.repeat(50_000));
  process.exit(payload!.code);
});

app.action("kill", async (context: KernelContext) => process.kill(process.pid, "SIGKILL"));

app.action("reject", async (context: KernelContext) => {
  void Promise.reject(new Error("nobody handles it"));
  await new Promise((done) => setTimeout(done, 600_000));
});

app.action("never", async (context: KernelContext) => {
  await new Promise(() => {});
});

app.action("unjson", async (context: KernelContext, kind?: Kind): Promise<unknown> => {
  if (kind === Kind.Function) return () => 1;
  if (kind === Kind.BigInt) return [1n];
  if (kind === Kind.Throws) return { toJSON: () => JSON.parse("the database is gone") };
  const circle: Record<string, unknown> = {};
  return Object.assign(circle, { circle });
});

app.action("big", async (context: KernelContext, payload?: { n: number }) => "x".repeat(payload!.n));

// Starts processes that want to outlive the invocation: a child, one in a session of its own, and an orphan. Prints and
// returns their pids and that of this process, after some seconds.
app.action("spawn", async (context: KernelContext, payload?: { seconds: number }) => {
  const child = spawn("sleep", ["600"], { stdio: "inherit" });
  const detached = spawn("sleep", ["600"], { detached: true, stdio: "ignore" });
  const shell = spawn("sh", ["-c", "setsid sleep 600 >/dev/null & echo $!"]);
  const orphan = await new Promise<string>((done) => shell.stdout.once("data", (data) => done(`${data}`)));
  const pids = [process.pid, child.pid, detached.pid, Number(orphan)];
  console.log("pids", ...pids);
  await new Promise((done) => setTimeout(done, payload!.seconds * 1000));
  return pids;
});

// Leaves a timer, a server and an exit handler that never ends.
app.action("leave", async (context: KernelContext) => {
  setInterval(() => console.log("still here"), 600_000);
  createServer().listen(0, "127.0.0.1");
  process.on("exit", () => {
    for (;;);
  });
  console.log("leaving");
  return "left";
});

// Ends standard output, and replaces what writes to standard error.
app.action("mute", async (context: KernelContext) => {
  process.stdout.end();
  process.stderr.write = () => true;
  console.error("not shown");
  return "mute";
});
