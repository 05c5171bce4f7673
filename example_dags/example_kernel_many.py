"""
Looks up as many books as the parameter ``books`` says, each by an invocation of its own, and adds up their prices.

Start it with a few hundred. The tasks wait in the triggerer, not on workers; those for which the account has no room
yet wait in a queue there, and need no pool. In the grid each carries the name that ``map_index_template`` makes of its
payload: from Airflow 3.2 on while it is deferred, too, before at its end only.
"""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

with DAG(
    "example_kernel_many",
    schedule=None,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["kernel"],
    doc_md=__doc__,
    params={
        "books": Param(6, type="integer", minimum=1, maximum=1000),
        "pause_seconds": Param(1, type="number", minimum=0, description="how long each invocation lasts"),
    },
):

    @task
    def choose(params=None):
        """Return a payload for each book."""
        pause = params["pause_seconds"]
        return [{"number": number, "pause_seconds": pause} for number in range(params["books"])]

    books = KernelInvokeOperator.partial(
        task_id="look_up",
        app_name="bookshop",
        action_name="book",
        map_index_template="book {{ task.payload['number'] }}",
    ).expand(payload=choose())

    @task
    def add_up(books):
        """Return how many books there are, and what they cost together."""
        prices = [book["price"] for book in books]
        return {"books": len(prices), "price": round(sum(prices), 2)}

    add_up(books.output)
