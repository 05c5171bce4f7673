"""Which app files are served as which versions."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from airflow_provider_kernel.emulator.deployments import Deployment, Deployments
from airflow_provider_kernel.emulator.loader import AppFileError

pytestmark = pytest.mark.no_airflow


def deployment(file, version):
    return Deployment(version, Mock(path=Path(file)))


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("emulator", "a.py and b.py both define the app 'shop'"),
        ("2", "a.py and b.py both define the app 'shop' in version 2"),
    ],
)
def test_two_files_cannot_define_the_same_version_of_an_app(version, message):
    deployments = Deployments({})
    deployments.serve(deployment("a.py", version), {"shop": ["act"]})
    second = deployment("b.py", version)

    with pytest.raises(AppFileError) as caught:
        deployments.serve(second, {"books": ["act"], "shop": ["act"]})

    assert str(caught.value) == message
    assert [app.name for app in deployments.apps] == ["shop"]
    assert second.status == "in_progress"


def test_a_deployment_takes_the_place_of_the_one_that_it_replaces_and_of_no_other():
    deployments = Deployments({})
    plain, old, new = deployment("a.py", "emulator"), deployment("b.py", "2"), deployment("b.py", "2")
    deployments.serve(plain, {"shop": ["act"]})
    deployments.serve(old, {"shop": ["act"], "books": ["act"]})

    deployments.serve(new, {"shop": ["other"]}, replaced=old)

    assert [(app.name, app.actions, app.deployment) for app in deployments.apps] == [
        ("shop", ("act",), plain),
        ("shop", ("other",), new),
    ]
