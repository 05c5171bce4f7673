"""
What one try of a task leaves behind for the next: which invocation it asked for, and what came of it. No I/O.

Airflow keeps the record over tries, deferrals, crashes and a user's clear; what tells those apart is the task
instance's ``max_tries``, the *generation*: a retry after a crash keeps it, a user's clear raises it.
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
    """The record in Airflow's task state store cannot be read, so what an earlier try did is not known."""


@dataclass(frozen=True)
class Record:
    """
    An invocation that a task asked for. Never its payload or output.

    Without ``invocation_id`` it is the *intent*, written before the request.

    :param ti_id: Airflow's id of the try that wrote it.
    :param generation: the task instance's ``max_tries`` at that time.
    :param fingerprint: :meth:`~airflow_provider_kernel.api.models.InvocationRequest.fingerprint` of the request.
    :param app_name: of the request, as ``action_name`` and ``app_version``: where to look for it.
    :param submitted_at: when it was requested, in seconds since 1970.
    :param metadata_field: the field of the payload that has the key, too; None if there is none.
    :param key: the key in the mark of the payload; None if there is no payload.
    :param deferred: whether a trigger waits for the invocation.
    :param ended: whether a try has seen its end, or had no more interest in it.
    :param replaces: id of the task's invocation before this one, which may look the same.
    :param replaces_cancelled: whether it was submitted because an earlier try cancelled that.
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
        Read what was stored; None if nothing was.

        :raises KernelRecordError: it is none of ours, or of a version that this one does not know.
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
                f"What an earlier try of this task left in Airflow's task state store under {RECORD_KEY!r} cannot be "
                "read; a newer version of this provider may have written it. Upgrade the provider, or, once you have "
                "made sure that no invocation of this task is running, delete that key."
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
        """Return what is stored."""
        return {"version": RECORD_VERSION, **asdict(self)}


class Decision(Enum):
    """What a try does about the invocation of an earlier one."""

    REATTACH = "wait for it, or return its output"
    CANCEL = "cancel it, and decide again once it has ended"
    SUBMIT = "submit anew"
    FAIL = "fail: what became of it is not known"


def decide(record: Record, found: Invocation | None, *, generation: int, fingerprint: str) -> Decision:
    """
    Decide about an earlier invocation.

    Within a generation it is taken up, whatever it was asked to do: a crash is no reason to run an action again.
    After a clear the user wants a new run; but what nobody waited for yet serves, if it does the same.

    :param found: as Kernel describes it now; None if there is no such invocation, or none any more.
    :param generation: of the try that decides, as ``fingerprint``.
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
