"""
What a wait on a worker (``deferrable=False``) takes: requests, CPU time and memory. Run by hand::

    python -m tests.benchmarks.bench_worker_wait [--log-mb=1024] [--output-mb=100]

A server in a process of its own sends a long log, then outputs; each wait runs in a fresh process. Its memory is the resident
set beyond that of a process that has waited for a small invocation.

Goals: one stream and no poll before the end; the memory stays the same over the log; a wait takes at most 3 x the size of the
output. Decoding the output takes what ``json.loads`` takes, which is measured beside it: Python's objects are larger than
their text. A stream is opened again after 300 s, after a poll, by design: a log for which this takes longer needs more requests.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from urllib.request import urlopen

LINE = (
    "2026-11-27 12:00:00,123 INFO shop.catalogue: page %07d of the catalogue has 24 books, next in 0.25 s; "
)
#: Each of these lines is of 60 kB: a page that the app prints.
LARGE_EVERY = 5_000
#: What the outputs consist of, by their names.
OUTPUTS = {
    "plain": {"title": "On the heights of despair", "price": 12.5, "tags": ["a", "b"]},
    "escapes": {"title": "Über Bücher 📚\n", "price": 12.5},
}


def log(megabytes: int) -> Iterator[bytes]:
    """Return the events of a log of this size, in chunks."""
    left, number = megabytes * 1_000_000, 0
    while left > 0:
        events = []
        for _ in range(200):
            number += 1
            message = LINE % number + "x" * (number % 100)
            if number % LARGE_EVERY == 0:
                message += "<div>" * 12_000
            event = {"event": "log", "timestamp": "2026-11-27T12:00:00Z", "message": message}
            events.append(f"data: {json.dumps(event)}\n\n".encode())
        chunk = b"".join(events)
        left -= len(chunk)
        yield chunk


def output(name: str, megabytes: int) -> str:
    """Return an output of this size, as JSON text."""
    item = json.dumps(OUTPUTS[name])
    return f"[{', '.join([item] * (megabytes * 1_000_000 // (len(item) + 2)))}]"


def serve(port: Connection, log_mb: int, output_mb: int) -> None:
    """A Kernel with invocations that are named after what they do; their ends are known once their streams have ended."""
    seen: Counter[str] = Counter()
    ended = set()

    def state(name: str) -> dict[str, str]:
        return {"id": name, "status": "succeeded" if name in ended else "running"}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/seen":
                return self.reply(dict(seen))
            name, _, rest = self.path.removeprefix("/invocations/").partition("/")
            seen[f"{name} {'stream' if rest else 'poll'}"] += 1
            if rest:
                return self.stream(name)
            kind = name.removeprefix("output-")
            return self.reply(state(name) | ({"output": output(kind, output_mb)} if kind in OUTPUTS else {}))

        def reply(self, data: object) -> None:
            body = json.dumps(data, ensure_ascii=False).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def stream(self, name: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for chunk in log(log_mb) if name == "log" else ():
                self.wfile.write(chunk)
            ended.add(name)
            event = {"event": "invocation_state", "timestamp": "", "invocation": state(name)}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()


def resident() -> float:
    """Return the resident set of this process, in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def peak_resident() -> float:
    """Return the largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def wait(name: str) -> None:
    """Wait for an invocation on the connection of the environment; print what that took."""
    from airflow_provider_kernel.hooks.kernel import KernelHook

    records = 0
    samples: list[float] = []

    def on_log(record: str) -> None:
        nonlocal records
        records += 1
        if records % 5 == 0:
            samples.append(resident() - baseline)

    with KernelHook() as hook:
        hook.wait_for_invocation("small", on_log=on_log)
        baseline, cpu = resident(), sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        found = hook.wait_for_invocation(name, on_log=on_log)
        peak_of_wait = peak_resident() - baseline
        size = len((found.raw_output or "").encode()) / 1e6
        decoded = found.output
        peak = peak_resident() - baseline
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - cpu
    print(f"{name}: {used:.1f} s of CPU, {records} records of log")
    if size:
        print(
            f"  output of {size:.0f} MB, {type(decoded).__name__}: wait + {peak_of_wait:.0f} MB ({peak_of_wait / size:.2f} x)"
        )
        print(f"  decoded: + {peak:.0f} MB ({peak / size:.2f} x)")
    else:
        steps = [samples[len(samples) * step // 10] for step in range(10)] if samples else []
        print(
            f"  resident set over the log: {' '.join(f'{step:+.1f}' for step in steps)} MB; peak + {peak:.1f} MB"
        )


def decode(name: str, megabytes: int) -> None:
    """Decode the same output with Python's JSON decoder alone; print what that took."""
    text = output(name, megabytes)
    before = resident()
    json.loads(text)
    peak = peak_resident() - before
    print(f"  decoded by json.loads alone: the text and + {peak:.0f} MB ({1 + peak * 1e6 / len(text):.2f} x)")


def main() -> None:
    """Start the server, and wait for each invocation in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log-mb", type=int, default=1024)
    parser.add_argument("--output-mb", type=int, default=100)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = multiprocessing.Pipe()
    server = spawn.Process(target=serve, args=(theirs, options.log_mb, options.output_mb), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    os.environ["AIRFLOW_CONN_KERNEL_DEFAULT"] = json.dumps(
        {"conn_type": "kernel", "password": "sk_bench", "host": url, "extra": {"max_response_mb": 1024}}
    )

    def run(function: Callable[..., None], *arguments: object) -> None:
        process = spawn.Process(target=function, args=arguments)
        process.start()
        process.join()

    run(wait, "log")
    for kind in OUTPUTS:
        run(wait, f"output-{kind}")
        run(decode, kind, options.output_mb)
    print("requests:", json.load(urlopen(f"{url}/seen")))
    server.terminate()


if __name__ == "__main__":
    main()
