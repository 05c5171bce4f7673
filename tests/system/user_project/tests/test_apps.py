"""The apps alone, without Airflow."""

import pytest

from airflow_provider_kernel.api.errors import KernelInvocationFailedError

LAMP = "<h1>Lamp</h1><p class=price>£1,012.50</p>"


def test_the_price_of_a_page_is_read(kernel_emulator, kernel_browser_server):
    url = kernel_browser_server.add("/lamp", LAMP)

    assert kernel_emulator.invoke("prices", "read", {"url": url}) == {"product": "Lamp", "price": 1012.5}
    assert [request.path for request in kernel_browser_server.requests] == ["/lamp"]


def test_a_page_without_a_price_is_a_failure_that_names_the_product(kernel_emulator, kernel_browser_server):
    url = kernel_browser_server.add("/lamp", "<h1>Lamp</h1><p>Sold out")

    with pytest.raises(KernelInvocationFailedError, match="no price of Lamp"):
        kernel_emulator.invoke("prices", "read", {"url": url})


def test_the_report_has_the_cheapest_product_and_tells_its_steps(kernel_emulator):
    prices = [{"product": "Lamp", "price": 12.5}, {"product": "Chair", "price": 7.5}]

    report = kernel_emulator.invoke("reports", "write", {"prices": prices, "day": "2026-01-01"})

    assert report == {
        "day": "2026-01-01",
        "cheapest": "Chair",
        "average": 10.0,
        "text": "The shop of the tests\nChair: 7.50\nLamp: 12.50",
    }
    [invocation] = kernel_emulator.invocations("reports", "write")
    assert [line.split(":")[0] for line in invocation.log] == [
        "step 1 of 3",
        "step 2 of 3",
        "step 3 of 3",
    ]
