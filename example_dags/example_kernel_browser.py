"""
Orders something in an online shop: the app drives a browser, and the task returns what the shop has confirmed.

The app ``shopper`` lies beside the Dag in ``apps/shopper``. ``make ui-browser`` in the repository of the provider serves
a shop, and the app with a browser, on this machine; there the Dag runs as it is.

An order must not be placed twice. A retry takes up the invocation of the try before as long as that runs; after one
that has failed, the action runs again, and the shop knows the order by its reference.
"""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, Param, task

with DAG(
    "example_kernel_browser",
    schedule=None,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["kernel"],
    doc_md=__doc__,
    params={
        "shop_url": Param("http://127.0.0.1:8090", type="string"),
        "product": Param("Storm lantern", type="string"),
        "quantity": Param(2, type="integer", minimum=1, maximum=99),
        "screenshot_url": Param(
            None,
            type=["null", "string"],
            description="takes a PUT of a picture, as a bucket's presigned URL does",
        ),
        "pause_seconds": Param(
            1, type="number", minimum=0, description="after each step, to watch the browser"
        ),
    },
):

    @task.kernel(app_name="shopper", action_name="order")
    def order(params=None, run_id=None):
        """Return the payload."""
        return {**params, "reference": run_id}

    order()
