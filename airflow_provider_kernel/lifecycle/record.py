"""
The record that an attempt of a task leaves for the next one: which invocation it submitted, and how that ended. No I/O.

Airflow keeps the record over attempts, deferrals, crashes and a user's clear. The task instance's ``max_tries``, here the
*generation*, distinguishes those: a retry after a crash keeps it, a user's clear raises it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.api.models import Invocation, InvocationRequest, InvocationStatus
from airflow_provider_kernel.api.payload import payload_digest
from airflow_provider_kernel.api.payload_mark import new_key

#: The key in Airflow's task state store.
RECORD_KEY = "kernel_invocation"
RECORD_VERSION = 1


class KernelRecordError(KernelError):
    """The record in Airflow's task state store cannot be read, so the invocation of an earlier attempt is not known."""


@dataclass(frozen=True)
class Record:
    """
    An invocation that a task submitted; never its payload or output.

    Without ``invocation_id`` it is the *intent*, which is stored before the request is sent.

    :param ti_id: Airflow's id of the attempt that wrote it.
    :param generation: the task instance's ``max_tries`` at that time.
    :param fingerprint: :meth:`~airflow_provider_kernel.api.models.InvocationRequest.fingerprint` of the request.
    :param app_name: of the request.
    :param action_name: of the request.
    :param app_version: of the request.
    :param submitted_at: when it was submitted, in seconds since 1970.
    :param metadata_field: the field of the payload that has the key, too; None if there is none.
    :param key: the key in the mark of the payload; None if there is no payload.
    :param invocation_id: Kernel's id; None until Kernel has accepted the request.
    :param deferred: whether a trigger waits for the invocation.
    :param ended: whether an attempt has seen the end, or does not wait for it.
    :param replaces: id of the task's invocation before this one.
    :param replaces_cancelled: whether it was submitted because another attempt cancelled that one.
    :param payload_digest: :func:`~airflow_provider_kernel.api.payload.payload_digest` of the payload, without what the
        task added; None if there is no payload.
    """

    ti_id: str
    generation: int
    fingerprint: str
    app_name: str
    action_name: str
    app_version: str
    submitted_at: float
    metadata_field: str | None = None
    key: str | None = None
    invocation_id: str | None = None
    deferred: bool = False
    ended: bool = False
    replaces: str | None = None
    replaces_cancelled: bool = False
    payload_digest: str | None = None

    @classmethod
    def of_request(cls, request: InvocationRequest, **fields: Any) -> Record:
        """Return the intent to send ``request``, with a key of its own; ``fields`` are the other ones."""
        return cls(
            fingerprint=request.fingerprint(),
            app_name=request.app_name,
            action_name=request.action_name,
            app_version=request.version,
            payload_digest=payload_digest(request.payload),
            key=None if request.payload is None else new_key(),
            **fields,
        )

    @classmethod
    def from_stored(cls, value: Any) -> Record | None:
        """
        Read a stored record.

        :param value: what Airflow has stored; None for nothing.
        :return: the record; None for nothing.
        :raises KernelRecordError: it is not a record, or one of an unknown version.
        """
        if value is None:
            return None
        try:
            fields = dict(value)
            version = fields.pop("version")
            record = cls(**fields)
        except (TypeError, ValueError, KeyError):
            version, record = None, None
        if version != RECORD_VERSION or record is None or not record._is_sound():
            raise KernelRecordError(
                f"The record of an earlier attempt of this task, in Airflow's task state store under {RECORD_KEY!r}, cannot "
                "be read: a newer version of this provider may have written it. Upgrade the provider; or make sure that no "
                "invocation of this task is running, and delete that key."
            )
        return record

    def _is_sound(self) -> bool:
        kinds: Mapping[str, Any] = {
            "ti_id": str,
            "generation": int,
            "fingerprint": str,
            "app_name": str,
            "action_name": str,
            "app_version": str,
            "submitted_at": (int, float),
            "payload_digest": (str, type(None)),
            "metadata_field": (str, type(None)),
            "key": (str, type(None)),
            "invocation_id": (str, type(None)),
            "deferred": bool,
            "ended": bool,
            "replaces": (str, type(None)),
            "replaces_cancelled": bool,
        }
        return all(isinstance(getattr(self, name), kind) for name, kind in kinds.items())

    def to_stored(self) -> dict[str, Any]:
        """Return the stored form: JSON."""
        return {"version": RECORD_VERSION, **asdict(self)}


class Decision(Enum):
    """What an attempt does about the invocation of an earlier one."""

    REATTACH = "The task reattaches to it."
    CANCEL = "The task cancels it and waits for its end."
    SUBMIT = "The task submits another one."
    FAIL = "Its result is unknown."


def decide(record: Record, found: Invocation | None, *, generation: int, fingerprint: str) -> Decision:
    """
    Decide about an earlier invocation.

    Within a generation, the attempt reattaches to it whatever the arguments are by now: after a crash, the action must not
    run again. After a clear, the user wants a new run; but an invocation with the same request that no attempt has waited
    for is used.

    :param record: of the earlier attempt.
    :param found: the invocation as Kernel describes it now; None if Kernel does not know it.
    :param generation: of the attempt that decides.
    :param fingerprint: of the request that the deciding attempt would send.
    """
    same_request = record.fingerprint == fingerprint
    if record.generation == generation:
        if found is None:
            return Decision.FAIL
        return Decision.SUBMIT if found.status == InvocationStatus.FAILED else Decision.REATTACH
    if record.ended or found is None or found.status == InvocationStatus.FAILED:
        return Decision.SUBMIT
    if found.status == InvocationStatus.SUCCEEDED:
        return Decision.REATTACH if same_request else Decision.SUBMIT
    return Decision.REATTACH if same_request and not record.deferred else Decision.CANCEL
