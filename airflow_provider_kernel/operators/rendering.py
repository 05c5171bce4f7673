"""A payload that is a text: JSON text, the name of a JSON file, or a template of either."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from airflow_provider_kernel.api.payload import parse_storable

#: A payload with this ending is the name of a file.
PAYLOAD_FILE_ENDING = ".json"


def is_payload_file(payload: Any) -> bool:
    """Return whether ``payload`` is the name of a file that holds the payload."""
    return isinstance(payload, str) and payload.endswith(PAYLOAD_FILE_ENDING)


def read_payload_file(name: str, env: Any) -> str:
    """
    Return the text of a payload file.

    :param name: its path, as seen from a folder in which the Dag's templates are.
    :param env: the Dag's Jinja environment.
    :raises ValueError: there is no such file.
    """
    try:
        text: str = env.loader.get_source(env, name)[0]
    except Exception as error:
        # Compared by name: Jinja is not imported when a Dag is parsed.
        if type(error).__name__ != "TemplateNotFound":
            raise
        raise ValueError(
            f"There is no payload file {name!r}. Write its path as seen from the folder of the Dag file, or from a folder "
            "in the Dag's template_searchpath, without '..'."
        ) from None
    return text


def is_native(env: Any) -> bool:
    """Return whether a Jinja environment renders templates to Python objects (``render_template_as_native_obj``)."""
    native = sys.modules.get("jinja2.nativetypes")
    return native is not None and isinstance(env, native.NativeEnvironment)


def render_json(text: str, context: Mapping[str, Any], env: Any) -> Any:
    """
    Render a template of JSON text.

    :param text: the template.
    :param context: the names that the template may use.
    :param env: the Jinja environment.
    :return: the dict or list that the rendered JSON text says, for ``map_index_template``; the text itself if it says
        another value, or one that Airflow cannot store. If the text is not JSON, the result is as Airflow renders it.
    """
    from airflow_provider_kernel.operators.xcom import UnsupportedOutputError, check_output

    # items(), because Airflow 2 warns of each deprecated name that dict(context) reads.
    pieces = list(env.from_string(text).generate(dict(context.items())))
    rendered = "".join(map(str, pieces))
    try:
        # First as JSON: a native environment reads text as Python, whose escapes differ from JSON's.
        value, is_altered = parse_storable(rendered)
        check_output(value)
    except UnsupportedOutputError:
        return rendered
    except ValueError:
        return env.concat(pieces)
    return value if isinstance(value, (dict, list)) and not is_altered else rendered
