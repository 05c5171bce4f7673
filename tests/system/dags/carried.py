"""Outputs of every kind on their way through XCom, and those that cannot make it."""

import json
from datetime import timedelta
from posixpath import normpath
from urllib.parse import unquote

from airflow.providers.common.compat.sdk import DAG, task
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.operators.xcom import (
    MAX_DEPTH,
    MAX_NUMBER,
    MIN_NUMBER,
    OLD_RESERVED_KEYS,
    RESERVED_KEYS,
    UnsupportedOutputError,
    check_key,
    check_output,
    read_output,
)

NEAR = [MIN_NUMBER, MAX_NUMBER, 2**53, 10**22, 10**308]
NUMBERS = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.builds(lambda near, by: near + by, st.sampled_from(NEAR), st.integers(-2, 2))
)
# Half surrogates too, and what Airflow gives a meaning.
CHARACTERS = st.text(st.characters(exclude_categories=()) | st.sampled_from("\x00\ud83d\ude00\\u0{}?#/%"))
KEYS = CHARACTERS | st.sampled_from(
    [*RESERVED_KEYS, *OLD_RESERVED_KEYS, "__version__", "__data__", "return_value"]
)
OUTPUTS = st.recursive(
    st.none() | st.booleans() | NUMBERS | CHARACTERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
#: Levels of nesting around an output, up to where Airflow itself may take over or not.
DEPTHS = st.sampled_from([0, 0, 0, 0, MAX_DEPTH - 10, MAX_DEPTH])


def nested(output, depth):
    """Put the output into lists."""
    for _ in range(depth):
        output = [output]
    return output


def is_same(sent, got):
    """Whether a value came back; a float may be an integer that is the same float."""
    if isinstance(sent, dict):
        return (
            isinstance(got, dict)
            and sent.keys() == got.keys()
            and all(is_same(sent[key], got[key]) for key in sent)
        )
    if isinstance(sent, list):
        return isinstance(got, list) and len(sent) == len(got) and all(map(is_same, sent, got))
    if isinstance(sent, float):
        return isinstance(got, (int, float)) and float(got) == sent
    return type(got) is type(sent) and got == sent


def arrives(ti, key, value):
    """Whether Airflow takes the value as XCom, and returns the same."""
    try:
        ti.xcom_push(key=key, value=value)
        return is_same(value, ti.xcom_pull(task_ids=ti.task_id, key=key))
    except Exception:  # noqa: BLE001 - whatever it is, the value is not there
        return False


def arrives_as_named(ti, key):
    """Whether a value is found by its key, and not by what an address makes of that."""
    if not arrives(ti, key, ascii(key)):
        return False
    other = normpath(unquote(key))
    try:
        return other == key or ti.xcom_pull(task_ids=ti.task_id, key=other) != ascii(key)
    except Exception:  # noqa: BLE001 - there can be no XCom of that name
        return False


def judge(seed_of_run, texts, examples, check, has_arrived):
    """Return the counts, and those of the JSON texts on which Airflow and the provider disagree."""
    told = {"carried": 0, "refused": 0, "lost": [], "needlessly_refused": []}

    @seed(int(seed_of_run))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(texts)
    def run(text):
        value, _ = read_output(text)
        try:
            check(value)
        except UnsupportedOutputError as error:
            told["refused"] += 1
            # Of the depth, a part is left to whoever wraps the output.
            if "levels deep" not in str(error) and has_arrived(value):
                told["needlessly_refused"].append(ascii(text))
        else:
            told["carried"] += 1
            if not has_arrived(value):
                told["lost"].append(ascii(text))

    run()
    return told


with DAG("carried", schedule=None):

    @task
    def values(seed_of_run, ti=None):
        """Write and read many outputs."""
        texts = st.builds(nested, OUTPUTS, DEPTHS).map(json.dumps)
        return judge(seed_of_run, texts, 300, check_output, lambda value: arrives(ti, "value", value))

    @task
    def keys(seed_of_run, ti=None):
        """The same of the keys that entries of an output have as XComs."""
        texts = (
            CHARACTERS
            | st.sampled_from(
                [".", "..", "a%20b", "%2e", "a/./b", "a/../b", "a/slice", "a/item/0", "k" * 512, "k" * 513]
            )
        ).map(json.dumps)
        return judge(seed_of_run, texts, 150, check_key, lambda key: arrives_as_named(ti, key))

    values("{{ dag_run.conf['seed'] }}")
    keys("{{ dag_run.conf['seed'] }}")
    KernelInvokeOperator.partial(
        task_id="invoke",
        app_name="system-tests",
        action_name="decode",
        async_=False,
        retries=2,
        retry_delay=timedelta(seconds=1),
    ).expand(
        payload=[
            {"json": r'{"page": ["Foo\u0000bar"]}'},
            {"json": '{"wei": [1180591620717411303424]}'},
            {"json": "[1e22]"},
            {"json": '{"a": {"__classname__": "x"}}'},
        ]
    )
