"""Tools of this repository: a real Airflow for the demo and the system tests. No part of the package."""


def localhost() -> str:
    """Airflow's ``hostname_callable``: the machine's own name may have no address."""
    return "127.0.0.1"
