"""What a mapped task is given by ``expand``, checked when the Dag is parsed, where Airflow makes no operator of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def checked(mappable: T) -> T:
    """
    Have checked what ``expand`` or ``expand_kwargs`` is going to be given, by the operator's ``check_arguments``.

    :param mappable: on which they are called: what ``partial`` of an operator returns, or a decorated function.
    :return: the same.
    """
    # Airflow makes it, and calls nothing of ours from there on. Where it cannot be changed, the task checks when it runs.
    kind: Any = type(mappable)
    with suppress(TypeError):
        mappable.__class__ = _checked(kind)
    return mappable


@cache
def _checked(kind: Any) -> Any:
    class Checked(kind):  # type: ignore[misc]
        __slots__ = ()

        def expand(self, **mapped: Any) -> Any:
            _check_function(self)
            for name, values in mapped.items():
                _check(self, ({name: value} for value in _literals(values)))
            return super().expand(**mapped)

        def expand_kwargs(self, kwargs: Any, **options: Any) -> Any:
            _check_function(self)
            _check(self, (item for item in _literals(kwargs) if isinstance(item, Mapping)))
            return super().expand_kwargs(kwargs, **options)

    Checked.__name__ = kind.__name__
    return Checked


def _check_function(mappable: Any) -> None:
    """Check what ``override`` and ``partial`` of a decorated function were given."""
    if hasattr(mappable, "function"):
        mappable.operator_class.check_arguments(mappable.kwargs)


def _check(mappable: Any, items: Iterable[Mapping[str, Any]]) -> None:
    # The payload of all of them was checked by partial, and may be large.
    given = {name: value for name, value in mappable.kwargs.items() if name != "payload"}
    for index, item in enumerate(items):
        if hasattr(mappable, "function"):  # of @task: the items are the function's arguments
            item = {"op_kwargs": {**given.get("op_kwargs", {}), **item}}
        try:
            mappable.operator_class.check_arguments({**given, **item})
        except ValueError as error:
            raise ValueError(f"Item {index} of what is expanded: {error}") from None


def _literals(values: Any) -> Any:
    if isinstance(values, Mapping):
        return list(values.items())  # what Airflow maps over
    return values if isinstance(values, (list, tuple)) else ()
