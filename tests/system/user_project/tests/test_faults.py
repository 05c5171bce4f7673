"""What becomes of the report when Kernel is full or slow, or the network fails."""

import threading

import kernel
import pytest

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.testing import run_operator

PRICES = [{"product": "Lamp", "price": 12.5}]


def write(**arguments):
    """Return the Dag's last task, with prices that need no other task."""
    return KernelInvokeOperator(
        task_id="report",
        app_name="reports",
        action_name="write",
        payload={"prices": PRICES, "day": "{{ ds }}"},
        **arguments,
    )


def test_the_report_is_of_the_day_of_the_run(kernel_emulator):
    run_operator(write(), context={"ds": "2026-01-01"})

    [written] = kernel_emulator.invocations("reports", "write")
    assert written.payload == {"prices": PRICES, "day": "2026-01-01"}


def test_a_full_account_is_waited_for(kernel_emulator, kernel_browser_server):
    free = threading.Event()

    def slow_page(request):
        free.wait(30)
        return "<h1>Lamp</h1><p class=price>1"

    url = kernel_browser_server.add("/slow", slow_page)
    kernel_emulator.max_concurrency = 1
    other = kernel.Kernel().invocations.create(
        app_name="prices", action_name="read", version="latest", payload=f'{{"url": "{url}"}}', async_=True
    )
    assert other.status == "queued"
    timer = threading.Timer(3, free.set)
    timer.start()
    try:
        assert run_operator(write())["cheapest"] == "Lamp"
    finally:
        timer.cancel()
        free.set()
    assert len(kernel_emulator.invocations("reports")) == 1


def test_a_lost_reply_does_not_write_the_report_twice(kernel_emulator):
    with kernel_emulator.fault(method="POST", path="/invocations", lose_reply=True, times=1) as fault:
        assert run_operator(write())["cheapest"] == "Lamp"

    assert fault.applied == 1
    assert len(kernel_emulator.invocations("reports", "write")) == 1


def test_a_stream_that_breaks_does_not_fail_the_report(kernel_emulator):
    fault = kernel_emulator.fault(path="/invocations/*/events", cut_after=2, times=1)

    assert run_operator(write())["cheapest"] == "Lamp"

    assert fault.applied == 1
    [written] = kernel_emulator.invocations("reports")
    assert len(written.log) == 3


def test_a_slow_kernel_is_waited_for(kernel_emulator):
    fault = kernel_emulator.fault(latency=0.3)

    assert run_operator(write())["cheapest"] == "Lamp"
    assert fault.applied >= 2


def test_version_1_is_still_there(kernel_emulator):
    assert kernel_emulator.invoke("reports", "write", {"prices": PRICES}, version="1") == "Lamp"
    assert run_operator(write(version="1")) == "Lamp"
    assert {invocation.version for invocation in kernel_emulator.invocations("reports")} == {"1"}


def test_the_spending_cap_fails_the_task_at_once(kernel_emulator):
    kernel_emulator.refuse = "spending-cap"

    with pytest.raises(Exception, match="spending cap"):
        run_operator(write())
