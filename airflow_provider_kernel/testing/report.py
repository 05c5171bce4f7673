"""What the report of a failed test says about the invocations of the test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.api.text import clean
from airflow_provider_kernel.emulator.console_lines import escape
from airflow_provider_kernel.testing.emulator import EmulatedInvocation, KernelEmulator, KernelEmulatorError

#: The heading in the report.
SECTION = "Kernel invocations"
#: Maximum number of invocations, of lines for each, and of characters for each line.
MAX_INVOCATIONS, MAX_LINES, MAX_LINE = 10, 60, 500


def describe_invocations(emulator: KernelEmulator) -> str:
    """Return the section: the invocations with status, reason and log, without payloads and outputs."""
    try:
        invocations = emulator.invocations()
    except (KernelError, KernelEmulatorError) as error:
        return f"The emulator did not answer: {error}"
    if not invocations:
        return "The test has invoked no action."
    # Those that succeeded are left out first.
    shown = sorted(invocations, key=lambda invocation: invocation.status == "succeeded")[:MAX_INVOCATIONS]
    lines = [line for invocation in invocations if invocation in shown for line in _lines(invocation)]
    if left_out := len(invocations) - len(shown):
        lines.append(f"[{left_out} more invocations]")
    return "\n".join(lines)


def _lines(invocation: EmulatedInvocation) -> Iterator[str]:
    name = escape(f"{invocation.app_name}.{invocation.action_name}")
    reason = f": {clean(invocation.status_reason)}" if invocation.status_reason else ""
    yield f"{name} ({invocation.id}) {invocation.status}{reason}"
    yield from (f"  | {line}" for line in _tail(invocation.log))
    if error := _error_outside_log(invocation):
        yield f"  {clean(error)}"


def _tail(log: Sequence[str]) -> Iterator[str]:
    if left_out := max(len(log) - MAX_LINES, 0):
        yield f"[{left_out} earlier lines]"
    for line in log[left_out:]:
        yield escape(line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…")


def _error_outside_log(invocation: EmulatedInvocation) -> str | None:
    """Return the error of a failed invocation, unless the traceback in the log ends with it."""
    error = invocation.output
    if invocation.status != "failed" or not isinstance(error, str):
        return None
    return None if error.strip() in "\n".join(invocation.log) else error
