"""
What is deployed: app files, each served as one version of the apps that it defines.

Choices where Kernel's behaviour is unknown:

- ``latest`` is the version that is deployed without a label, which is what Kernel's API and command line call it. So it is the
  version of the files without ``--version``. They are deployed last, so that it is the newest version, too. An app that
  has only labelled versions has no ``latest``.
- Lists have the label of that version, so the filter ``latest`` finds nothing.
- A deployment that is replaced runs until the last of its invocations has ended, and then is stopped.
"""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_kernel.api.timestamps import format_timestamp
from airflow_provider_kernel.emulator.contract import VERSION_LABEL, DeploymentFilter, not_found
from airflow_provider_kernel.emulator.loader import AppFileError
from airflow_provider_kernel.emulator.process import Forkserver

_REGION = "aws.us-east-1a"


def new_id() -> str:
    """Return an id in Kernel's form: 24 lower-case letters and digits."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(24))


@dataclass(eq=False)
class Deployment:
    """
    An app file that is served as one version of its apps.

    :param version: the version's label.
    :param forkserver: imports the file.
    :param app_names: the apps that the file defines; none until it is imported.
    :param status: as Kernel has it: ``in_progress``, ``running``, ``failed`` or ``stopped``.
    :param reason: why it failed.
    :param updated: time of the last change of the status, in nanoseconds since 1970; None: no change yet.
    """

    version: str
    forkserver: Forkserver
    id: str = field(default_factory=new_id)
    app_names: tuple[str, ...] = ()
    status: str = "in_progress"
    reason: str | None = None
    updated: int | None = None

    def set_status(self, status: str, reason: str | None = None) -> None:
        """Change the status."""
        self.status, self.reason, self.updated = status, reason, time.time_ns()

    def as_json(self, variables: Iterable[str]) -> dict[str, Any]:
        """
        Return the deployment as the API describes it. Fields without a value are left out.

        :param variables: names of the variables of the apps; no key gets their values.
        """
        data = {
            "id": self.id,
            "status": self.status,
            "status_reason": self.reason,
            "region": _REGION,
            "entrypoint_rel_path": self.forkserver.path.name,
            "env_vars": dict.fromkeys(variables, ""),
            "created_at": format_timestamp(self.forkserver.started),
            "updated_at": None if self.updated is None else format_timestamp(self.updated),
        }
        return {name: value for name, value in data.items() if value is not None}


@dataclass(frozen=True)
class App:
    """A version of an app, and the deployment that serves it."""

    name: str
    actions: tuple[str, ...]
    deployment: Deployment
    id: str = field(default_factory=new_id)

    @property
    def version(self) -> str:
        """The version's label."""
        return self.deployment.version

    def as_json(self, variables: Iterable[str]) -> dict[str, Any]:
        """
        Return the version as the API describes it.

        :param variables: names of the variables of the apps; no key gets their values.
        """
        return {
            "id": self.id,
            "app_name": self.name,
            "version": self.version,
            "region": _REGION,
            "deployment": self.deployment.id,
            "actions": [{"name": action} for action in self.actions],
            "env_vars": dict.fromkeys(variables, ""),
        }


class Deployments:
    """
    All deployments, and the versions of apps that they serve.

    :param environment: the complete environment of a forkserver.
    :param variables: names of the variables that the user has given the apps.
    """

    def __init__(self, environment: Mapping[str, str], variables: Iterable[str] = ()) -> None:
        self.variables = tuple(variables)
        self._environment = environment
        self._deployments: dict[str, Deployment] = {}
        self._apps: dict[tuple[str, str], App] = {}

    def start(self, path: Path, version: str = VERSION_LABEL) -> Deployment:
        """Begin to import an app file."""
        deployment = Deployment(version, Forkserver(path, self._environment))
        self._deployments[deployment.id] = deployment
        return deployment

    def __iter__(self) -> Iterator[Deployment]:
        """Iterate over all deployments, oldest first."""
        return iter(list(self._deployments.values()))

    def wait(self) -> None:
        """
        Wait until all files are imported, and serve their apps.

        :raises AppFileError: a file cannot be served, or two files define the same version of an app.
        """
        for deployment in self:
            self.serve(deployment, deployment.forkserver.apps())

    def serve(
        self,
        deployment: Deployment,
        actions: Mapping[str, Sequence[str]],
        replaced: Deployment | None = None,
    ) -> list[App]:
        """
        Serve the apps of a deployment; return them.

        :param actions: the actions' names by app.
        :param replaced: a deployment whose apps are served no longer.
        :raises AppFileError: another file defines the same version of an app. Nothing has changed then.
        """
        apps = {key: app for key, app in self._apps.items() if app.deployment is not replaced}
        added = [App(name, tuple(names), deployment) for name, names in actions.items()]
        for app in added:
            key = (app.name, app.version)
            if key in apps:
                label = "" if app.version == VERSION_LABEL else f" in version {app.version}"
                raise AppFileError(
                    f"{apps[key].deployment.forkserver.path} and {deployment.forkserver.path} both define the app "
                    f"{app.name!r}{label}"
                )
            apps[key] = app
        self._apps = apps
        deployment.app_names = tuple(actions)
        deployment.set_status("running")
        return added

    def stop(self, deployment: Deployment) -> None:
        """End the processes of a deployment that was replaced."""
        deployment.forkserver.close()
        deployment.set_status("stopped")

    def close(self) -> None:
        """End the processes of all deployments."""
        for deployment in self:
            deployment.forkserver.close()

    @property
    def apps(self) -> list[App]:
        """The served versions of apps, those without a label first."""
        return sorted(self._apps.values(), key=lambda app: app.version != VERSION_LABEL)

    def versions(self, app_name: str) -> list[str]:
        """Return the labels of an app's versions."""
        return [version for name, version in self._apps if name == app_name]

    def version_note(self, app: App) -> str:
        """Return what follows the name of an app or action for people: the version, if the app has several."""
        return f" (version {app.version})" if len(self.versions(app.name)) > 1 else ""

    def find_app(self, name: str, version: str) -> App:
        """
        Return a version of an app.

        :param version: the label, or ``latest``.
        :raises ApiError: 404: the app is unknown, or has no such version.
        """
        app = self._apps.get((name, VERSION_LABEL if version == "latest" else version))
        if app is not None:
            return app
        versions = self.versions(name)
        if not versions:
            raise not_found(f"App not found: {name}")
        hint = "" if version != "latest" else "; it is the version of a file that is given without --version"
        raise not_found(
            f"Version not found: {version} of the app {name}, which has {', '.join(versions)}{hint}"
        )

    def find(self, deployment_id: str) -> Deployment:
        """
        Return a deployment.

        :raises ApiError: 404: the id is unknown.
        """
        if deployment_id not in self._deployments:
            raise not_found(f"Deployment not found: {deployment_id}")
        return self._deployments[deployment_id]

    def list(self, wanted: DeploymentFilter) -> list[Deployment]:
        """Return the deployments that the filter matches, newest first."""
        return [
            it
            for it in reversed(self._deployments.values())
            if wanted.matches(it.id, it.version, it.app_names)
        ]
