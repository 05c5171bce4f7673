"""The arguments of a mapped task, checked when the Dag is parsed. Airflow creates the operator only when the task runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

T = TypeVar("T")


class ArgumentCheckMixin:
    """Checks the arguments of an operator or sensor when the Dag is parsed, also those of a mapped task."""

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """
        Begin a mapped task.

        :param kwargs: the arguments that all its task instances share.
        :return: the object with ``expand`` and ``expand_kwargs``.
        :raises ValueError: an argument is wrong.
        """
        mappable: OperatorPartial = super().partial(**kwargs)  # type: ignore[misc]
        cls.check_arguments(mappable.kwargs)  # these have the Dag and its default_args
        return check_expanded(mappable)

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any]) -> None:
        """
        Check arguments as far as they are known when the Dag is parsed.

        :param given: the arguments, by their names.
        :raises ValueError: an argument is wrong; the sentence says what to write instead.
        """
        raise NotImplementedError


def check_expanded(mappable: T) -> T:
    """
    Make ``expand`` and ``expand_kwargs`` of a mapped task check their arguments, by the operator's ``check_arguments``.

    :param mappable: the object with ``expand``: the result of an operator's ``partial``, or a decorated function.
    :return: the same object.
    """
    # Airflow has no hook here. If its class cannot be replaced, the arguments are checked when the task runs.
    kind: Any = type(mappable)
    with suppress(TypeError):
        mappable.__class__ = _checking(kind)
    return mappable


@cache
def _checking(kind: Any) -> Any:
    class Checking(kind):  # type: ignore[misc]
        __slots__ = ()

        def expand(self, **mapped: Any) -> Any:
            _check_function(self)
            for name, values in mapped.items():
                _check_items(self, ({name: value} for value in _literals(values)))
            return super().expand(**mapped)

        def expand_kwargs(self, kwargs: Any, **options: Any) -> Any:
            _check_function(self)
            _check_items(self, (item for item in _literals(kwargs) if isinstance(item, Mapping)))
            return super().expand_kwargs(kwargs, **options)

    Checking.__name__ = kind.__name__
    return Checking


def _check_function(mappable: Any) -> None:
    """Check the arguments of ``override`` and ``partial`` of a decorated function."""
    if hasattr(mappable, "function"):
        mappable.operator_class.check_arguments(mappable.kwargs)


def _check_items(mappable: Any, items: Iterable[Mapping[str, Any]]) -> None:
    # Without the shared payload, which partial has checked and which may be large.
    given = {name: value for name, value in mappable.kwargs.items() if name != "payload"}
    for index, item in enumerate(items):
        if hasattr(mappable, "function"):  # the items are the decorated function's arguments
            item = {"op_kwargs": {**given.get("op_kwargs", {}), **item}}
        try:
            mappable.operator_class.check_arguments({**given, **item})
        except ValueError as error:
            raise ValueError(f"Item {index} of the expanded arguments: {error}") from None


def _literals(values: Any) -> Any:
    if isinstance(values, Mapping):
        return list(values.items())  # Airflow maps over the items of a dict
    return values if isinstance(values, (list, tuple)) else ()
