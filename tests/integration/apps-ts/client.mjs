// Invokes the action "echo" with the official client of Node.js; prints what it gets, as JSON.

import Kernel from "@onkernel/sdk";

const kernel = new Kernel({ maxRetries: 0 });
const call = { app_name: "ts", action_name: "echo", version: "latest", payload: '{"n": 1}' };
const synchronous = await kernel.invocations.create(call);
const { id } = await kernel.invocations.create({ ...call, async: true });
const events = [];
for await (const event of await kernel.invocations.follow(id)) events.push(event.invocation?.status);
const retrieved = await kernel.invocations.retrieve(id);
const apps = [];
for await (const app of kernel.apps.list()) apps.push(app.app_name);
console.log(JSON.stringify({ apps, events, synchronous: synchronous.output, retrieved: retrieved.output }));
