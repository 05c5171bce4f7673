"""
Runs many actions of a second or two in one task, five at a time.

A task for each would cost more than the action itself. What is given up for it: if one fails, the task fails, and a
retry runs them all again; so this is for actions that may be repeated.
"""

from concurrent.futures import ThreadPoolExecutor

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_kernel.hooks.kernel import KernelHook


def look_up(kernel, number):
    """Run the action, and wait for its output in the same call."""
    with kernel:
        return kernel.invoke("bookshop", "book", {"number": number}, async_=False).result()


with DAG("example_kernel_batch", schedule=None, tags=["kernel"], doc_md=__doc__):

    @task
    def prices(numbers):
        """Return the price of each book."""
        kernel = KernelHook("kernel_default")
        # A clone for each call: it has its own HTTP session, and the connection is read once.
        with ThreadPoolExecutor(max_workers=5) as pool:
            books = pool.map(look_up, [kernel.clone() for _ in numbers], numbers)
            return [book["price"] for book in books]

    prices([0, 7, 250])
