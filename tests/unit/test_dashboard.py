"""Where a task's link leads."""

from __future__ import annotations

import pytest

from airflow_provider_kernel.api.errors import KernelConfigurationError
from airflow_provider_kernel.api.settings import KernelSettings

pytestmark = pytest.mark.no_airflow


def settings(**extra):
    return KernelSettings.from_connection("c", password="sk_x", extra=extra)


@pytest.mark.parametrize(
    "unset", [{}, {"dashboard_url": None}, {"dashboard_url": ""}, {"dashboard_url": "  "}]
)
def test_the_default_is_kernels_dashboard(unset):
    assert settings(**unset).invocation_url("inv1") == "https://dashboard.onkernel.com"


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://d.example", "https://d.example"),
        (" https://d.example/i/{invocation_id} ", "https://d.example/i/a%2Fb%3F%7Bproject%7D"),
        (
            "https://d.example/{project}?i={invocation_id}",
            "https://d.example/my%20shop?i=a%2Fb%3F%7Bproject%7D",
        ),
        ("http://[::1]:8080/#{invocation_id}", "http://[::1]:8080/#a%2Fb%3F%7Bproject%7D"),
    ],
)
def test_id_and_project_are_quoted(address, url):
    assert settings(dashboard_url=address, project="my shop").invocation_url("a/b?{project}") == url


def test_a_missing_project_is_empty():
    assert (
        settings(dashboard_url="https://d.example/?p={project}").invocation_url("i")
        == "https://d.example/?p="
    )


@pytest.mark.parametrize(
    "address",
    [
        "d.example",
        "javascript:alert(1)",
        "ftp://d.example",
        "https://",
        "https://me:secret@d.example",
        "https://d.example/{id}",
        "https://d.example/{",
        "https://d.example/a b",
        "https://d.example/\x00",
        "https://[::1",
        "https://{project}",
        5,
    ],
)
def test_an_invalid_address_is_refused_without_being_quoted(address):
    found = settings(dashboard_url=address)  # a link is not worth a task
    with pytest.raises(KernelConfigurationError, match=r"such as https://dashboard\.example/") as refused:
        found.invocation_url("inv1")
    assert "secret" not in f"{refused.value}{found}"
