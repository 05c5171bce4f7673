"""The whole Dag."""

from airflow_provider_kernel.testing import run_dag
from dags.price_report import dag


def shop(server, **prices):
    """Serve a page for each product."""
    return [
        server.add(f"/{name}", f"<h1>{name}</h1>" + (f"<p class=price>£{price}</p>" if price else ""))
        for name, price in prices.items()
    ]


def test_the_dag_reports_the_prices_of_all_pages(kernel_emulator, kernel_browser_server):
    run = run_dag(dag, conf={"urls": shop(kernel_browser_server, lamp=12.5, chair=7.5)})

    run.raise_for_failure()
    assert run.outputs["read"] == [{"product": "lamp", "price": 12.5}, {"product": "chair", "price": 7.5}]
    assert run.outputs["report"]["text"] == "The shop of the tests\nchair: 7.50\nlamp: 12.50"
    [written] = kernel_emulator.invocations("reports")
    assert written.payload["prices"] == run.outputs["read"]


def test_a_page_without_a_price_does_not_stop_the_report(kernel_emulator, kernel_browser_server):
    run = run_dag(dag, conf={"urls": shop(kernel_browser_server, lamp=12.5, chair=None)})

    assert run.state == "success"
    assert run.task_states == {"pages": "success", "read": ["success", "failed"], "report": "success"}
    assert run.outputs["report"]["text"] == "The shop of the tests\nlamp: 12.50"
