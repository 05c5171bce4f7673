"""The arguments of KernelInvokeOperator: checked when the Dag is parsed, and after rendering."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, task, task_group

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

try:
    from airflow.sdk.definitions._internal.mixins import ResolveMixin
    from airflow.sdk.definitions._internal.templater import LiteralValue
    from airflow.sdk.definitions._internal.types import SET_DURING_EXECUTION as NOTSET
except ImportError:  # Airflow 2
    from airflow.template.templater import LiteralValue
    from airflow.utils.mixins import ResolveMixin
    from airflow.utils.types import NOTSET


def operator(**kwargs):
    return KernelInvokeOperator(**{"task_id": "t", "app_name": "shop", "action_name": "price", **kwargs})


def build(context, jinja_env):
    return {"day": context["ds"]}


def nothing():
    """The function of a task."""


class Builder:
    """A callable object, which Airflow calls if it is a template field."""

    def __call__(self, context, jinja_env):
        return build(context, jinja_env)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"app_name": ""}, "app_name is empty"),
        ({"action_name": "  "}, "action_name is empty"),
        ({"version": ""}, "version is empty.*'latest'"),
        ({"version": 1.0}, "version must be a string.*not float"),
        ({"kernel_conn_id": ""}, "kernel_conn_id is empty.*id of an Airflow connection"),
        ({"payload": {"a": {"b": float("nan")}}}, r"payload\['a'\]\['b'\] is nan"),
        ({"payload": {"ids": {1, 2}}}, r"payload\['ids'\] is a set.*list\(…\)"),
        ({"payload": [datetime(2026, 1, 1, tzinfo=UTC)]}, r"payload\[0\] is a datetime.datetime.*isoformat"),
        ({"payload": {"make": build}}, r"payload\['make'\] is a function.*payload=make_payload"),
        ({"payload": "not json"}, "is not JSON text.*json.dumps"),
        ({"payload": ["x" * 5_000_000]}, "4.5 MB at most"),
        ({"async_timeout_seconds": 9}, "outside Kernel's range, 10 to 3600"),
        ({"async_timeout_seconds": "60"}, "a whole number from 10 to 3600"),
        ({"async_": False, "async_timeout_seconds": 60}, "Leave one of the two out"),
        ({"async_": False, "wait_for_completion": False}, "Leave one of the two out"),
        ({"async_": "yes"}, "async_ must be True or False"),
        ({"timeout": 0}, "timeout must be seconds"),
        ({"timeout": -1}, "timeout must be seconds"),
        ({"timeout": float("inf")}, "timeout must be seconds"),
        ({"timeout": True}, "timeout must be seconds"),
        ({"poll_interval": 0}, "poll_interval must be seconds"),
        ({"poll_interval": None}, "poll_interval must be seconds"),
    ],
)
def test_wrong_argument_raises_at_parse(arguments, says):
    with pytest.raises(ValueError, match=says) as refused:
        operator(**arguments)
    assert len(str(refused.value)) < 400, "the message quotes the payload"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"payload": None},
        {"payload": '{"sku": 1}'},
        {"payload": {"sku": ("a", 1, 1.5, None, True)}},
        {"async_timeout_seconds": 10},
        {"async_timeout_seconds": 3600},
        {"async_": False},
        {"wait_for_completion": False},
        {"timeout": 0.5, "poll_interval": 1},
    ],
)
def test_valid_arguments_are_accepted(arguments):
    operator(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"app_name": "{{ var.value.app }}", "action_name": "{% if 1 %}a{% endif %}"},
        {"version": "{{ params.version }}", "kernel_conn_id": "{{ params.conn }}"},
        {"payload": "{{ ti.xcom_pull('upstream') }}"},
        {"payload": {"day": "{{ ds }}"}},
    ],
)
def test_template_is_not_checked_at_parse(arguments):
    assert operator(**arguments)


def test_output_of_another_task_is_not_checked_at_parse():
    @task
    def make():
        return {"sku": 1}

    with DAG("d", schedule=None):
        output = make()
        assert operator(payload=output)
        assert operator(task_id="u", payload={"nested": [output]})


CALLABLES = [build, partial(build), Builder(), lambda context, jinja_env: build(context, jinja_env)]


@pytest.mark.parametrize("make", CALLABLES)
def test_callable_is_called_by_airflow_at_run_time(make):
    def name(context, jinja_env):
        return "shop"

    with DAG("d", schedule=None):
        KernelInvokeOperator.partial(
            task_id="mapped", app_name=name, action_name="price", payload=make, metadata_field="key"
        ).expand(version=["1", "2"])
        plain = operator(
            app_name=name, version=partial(name), kernel_conn_id=name, payload=make, metadata_field="key"
        )
    plain.render_template_fields({"ds": "2026-11-24"})
    request = plain.request({})
    assert (request.app_name, request.version, plain.kernel_conn_id) == ("shop", "shop", "shop")
    assert json.loads(request.payload) == {"day": "2026-11-24"}


def test_template_with_the_dags_own_marks_is_rendered(tmp_path):
    (tmp_path / "price.json").write_text("[[ params.price | tojson ]]")
    marks = {
        "variable_start_string": "[[",
        "variable_end_string": "]]",
        "comment_start_string": "[#",
        "comment_end_string": "#]",
    }
    params = {"price": {"sku": "A"}}
    with DAG(
        "d",
        schedule=None,
        params=params,
        jinja_environment_kwargs=marks,
        template_searchpath=[str(tmp_path)],
    ):
        for number, payload in enumerate(["[[ params.price | tojson ]]", "price.json"]):
            plain = operator(task_id=f"t{number}", app_name="[[ params.price.sku ]].json", payload=payload)
            plain.resolve_template_files()
            plain.render_template_fields({"params": params})
            request = plain.request({})
            assert (request.app_name, json.loads(request.payload)) == ("A.json", {"sku": "A"})
        KernelInvokeOperator.partial(
            task_id="m", app_name="shop", action_name="price", payload="[[ params.price ]]"
        ).expand(version=["1", "2"])
        KernelInvokeOperator.partial(task_id="n", app_name="shop", action_name="price").expand(
            payload=["[[ params.price ]]", "{}"]
        )
    with DAG("other", schedule=None), pytest.raises(ValueError, match="not JSON text"):
        operator(payload="[[ params.price ]]")


def test_reference_anywhere_in_the_payload_is_not_checked_at_parse():
    with DAG("d", schedule=None, params={"sku": "A"}) as dag:
        output = task(nothing)().map(lambda found: found)
        for number, reference in enumerate(references(dag, output)):
            operator(task_id=f"a{number}", payload=reference, app_name=reference, metadata_field="key")
            operator(task_id=f"b{number}", payload={"a": [(reference,)]})
            KernelInvokeOperator.partial(task_id=f"c{number}", app_name=reference, payload=reference).expand(
                action_name=["a", "b"]
            )


def references(dag, output):
    """One reference of each kind that Airflow resolves when the task runs."""
    yield output
    yield output.zip(output)
    yield output.concat(output)
    yield dag.param("sku")
    yield LiteralValue({"not": "{{ rendered }}"})

    class Reference(ResolveMixin):
        def iter_references(self):
            return ()

        def resolve(self, context, **_):
            return "later"

    yield Reference()


def test_argument_of_a_mapped_task_group_is_not_checked_at_parse():
    with DAG("d", schedule=None):

        @task_group
        def each(sku):
            operator(task_id="a", payload=sku)
            operator(task_id="b", payload={"sku": sku}, app_name=sku)

        each.expand(sku=["A", "B"])


def test_argument_set_during_execution_is_not_checked_at_parse():
    assert operator(payload=NOTSET, metadata_field="key")


def test_literal_value_is_sent_unrendered():
    with DAG("d", schedule=None):
        plain = operator(payload=LiteralValue({"text": "{{ ds }}"}))
    plain.render_template_fields({"ds": "2026-11-24"})
    assert json.loads(plain.request({}).payload) == {"text": "{{ ds }}"}


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (task(nothing), r"payload is a .*_TaskDecorator, which JSON cannot hold\. Call the task"),
        ({"a": task(nothing)}, r"payload\['a'\] is a .*_TaskDecorator.*Call the task"),
        (KernelInvokeOperator(task_id="o", app_name="a", action_name="b"), r"payload is a .*\.output"),
        ([Path("x")], r"payload\[0\] is a pathlib.*str\("),
    ],
)
def test_payload_that_airflow_does_not_resolve_raises_at_parse(payload, says):
    with pytest.raises(ValueError, match=says):
        operator(payload=payload)


NUL, HALF = "x\0y", "x\ud83dy"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"payload": {"rows": [1, 2, 3, NUL]}}, r"payload\['rows'\]\[3\] holds a NUL character"),
        ({"payload": {"a": ({NUL: 1},)}}, r"payload\['a'\]\[0\] has the key 'x\\x00y', which holds a NUL"),
        ({"payload": {"a": NUL + "{{ ds }}"}}, r"payload\['a'\] holds a NUL character"),
        ({"payload": NUL + ".json"}, "payload holds a NUL character"),
        ({"payload": NUL + "{{ ds }}"}, "payload holds a NUL character"),
        ({"payload": f'"{NUL}"'}, "payload holds a NUL character"),
        ({"payload": {"a": [HALF]}}, r"payload\['a'\]\[0\] holds half a surrogate pair"),
        *(
            ({name: text}, f"{name} holds {what}")
            for name in ("app_name", "action_name", "version", "kernel_conn_id")
            for text, what in (
                (NUL, "a NUL"),
                ("{{ ds }}" + NUL, "a NUL"),
                (HALF, "half a surrogate pair"),
            )
        ),
    ],
)
def test_argument_that_the_database_cannot_store_raises_at_parse(arguments, says):
    with pytest.raises(ValueError, match=says):
        operator(**arguments)
    with DAG("d", schedule=None), pytest.raises(ValueError, match=says):
        KernelInvokeOperator.partial(
            **{"task_id": "t", "app_name": "shop", "action_name": "price", **arguments}
        )


def test_escaped_nul_in_json_text_is_sent_unchanged():
    """Airflow can store the six characters of the escape."""
    text = json.dumps({"a": NUL})
    plain = operator(payload=text, dag=DAG("d", schedule=None))
    plain.render_template_fields({})
    assert plain.request({}).payload == text


def test_nul_that_appears_at_run_time_is_sent():
    """Airflow stores rendered fields in a column of another type, which accepts NUL."""
    plain = operator(payload=lambda **_: {"a": NUL}, dag=DAG("d", schedule=None))
    plain.render_template_fields({})
    assert json.loads(plain.request({}).payload) == {"a": NUL}


@pytest.mark.parametrize(
    ("payload", "native"),
    [
        (lambda **_: None, False),
        (lambda **_: "null", False),
        ("{{ found }}", False),
        ("{{ found or '' }}", False),
        ("{{ found | tojson }}", False),
        ("{{ found }}", True),
        ("{{ found | tojson }}", True),
        (LiteralValue(None), False),
    ],
)
@pytest.mark.parametrize("metadata_field", [None, "key"])
def test_payload_rendered_to_none_fails_without_retry(payload, native, metadata_field):
    dag = DAG("d", schedule=None, render_template_as_native_obj=native)
    plain = operator(payload=payload, metadata_field=metadata_field, dag=dag)
    plain.render_template_fields({"found": None})
    with pytest.raises(AirflowFailException, match=r"payload was rendered to nothing: .*leave payload out"):
        plain.request({})


@pytest.mark.parametrize(
    ("payload", "sent"), [(None, None), ("null", "null"), ({"a": None}, '{"a":null}'), ([None], "[null]")]
)
def test_literal_none_is_sent(payload, sent):
    plain = operator(payload=payload, dag=DAG("d", schedule=None))
    plain.render_template_fields({})
    assert plain.request({}).payload == sent


def test_none_inside_a_payload_is_null():
    plain = operator(payload={"a": LiteralValue(None)}, dag=DAG("d", schedule=None))
    plain.render_template_fields({})
    assert plain.request({}).payload == '{"a":null}'


def test_payload_set_after_the_constructor_fails_when_rendered_to_none():
    plain = operator(dag=DAG("d", schedule=None))
    plain.payload = "{{ found | tojson }}"
    plain.render_template_fields({"found": None})
    with pytest.raises(AirflowFailException, match="payload was rendered to nothing"):
        plain.request({})


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("value", [{"t": "a\0b\ud83d"}, {"wei": 2**70}, {"rate": 1e30}], ids=str)
@pytest.mark.parametrize("metadata_field", [None, "key"])
def test_rendered_payload_that_airflow_cannot_store_stays_text_and_is_sent(native, value, metadata_field):
    dag = DAG("d", schedule=None, render_template_as_native_obj=native)
    plain = operator(payload="{{ found }}", metadata_field=metadata_field, dag=dag)
    plain.render_template_fields({"found": json.dumps(value)})
    assert isinstance(plain.payload, str)
    request = plain.request({})
    if metadata_field:
        request = request.with_metadata(metadata_field, {})
    assert {name: item for name, item in json.loads(request.payload).items() if name != "key"} == value


@pytest.mark.parametrize("name", ["app_name", "action_name", "version", "kernel_conn_id"])
@pytest.mark.parametrize("value", [None, 7, "", NUL])
def test_name_rendered_to_a_wrong_value_fails_without_retry(name, value):
    plain = operator(**{name: lambda **_: value}, dag=DAG("d", schedule=None))
    plain.render_template_fields({})
    with pytest.raises(AirflowFailException, match=f"^{name} (must be a string|is empty|holds a NUL)"):
        plain.execute(
            {
                "ti": SimpleNamespace(
                    id="1", try_number=1, max_tries=0, dag_id="d", task_id="t", run_id="r", map_index=-1
                )
            }
        )


@pytest.mark.filterwarnings("ignore:.*never mapped")
@pytest.mark.parametrize(
    ("mapped", "says"),
    [
        ({"payload": [{}, {"a": NUL}]}, r"Item 1 of the expanded arguments: payload\['a'\] holds a NUL"),
        ({"payload": [{"wei": 2**64}]}, r"Item 0 .*payload\['wei'\] is a number beyond 64 bits"),
        ({"payload": ({"a": {1}},)}, r"Item 0 .*payload\['a'\] is a set"),
        ({"payload": [{}, [1]]}, r"Item 1 .*metadata_field adds a field"),
        ({"app_name": ["", "b"]}, "Item 0 .*app_name is empty"),
        ({"async_timeout_seconds": [60, 9]}, "Item 1 .*outside Kernel's range"),
    ],
)
def test_wrong_literal_item_of_expand_raises_at_parse(mapped, says):
    names = {"app_name": "shop", "action_name": "price"}
    partial = {"task_id": "t", "metadata_field": "key"}
    partial |= {name: value for name, value in names.items() if name not in mapped}
    with DAG("d", schedule=None):
        with pytest.raises(ValueError, match=says):
            KernelInvokeOperator.partial(**partial).expand(**mapped)
        items = [{name: value} for name, values in mapped.items() for value in values]
        with pytest.raises(ValueError, match=says):
            KernelInvokeOperator.partial(**partial).expand_kwargs(items)


def test_wrong_item_from_another_task_fails_without_retry():
    with DAG("d", schedule=None):
        output = task(nothing)()
        mapped = KernelInvokeOperator.partial(task_id="t", app_name="shop", action_name="price").expand(
            payload=output
        )
    assert mapped.unmap({"payload": {"sku": "A"}}).payload == {"sku": "A"}
    with pytest.raises(AirflowFailException, match="not JSON text"):
        mapped.unmap({"payload": "A-100"})


@pytest.mark.filterwarnings("ignore:.*never mapped")
def test_wrong_item_of_an_expanded_dict_raises_at_parse():
    with (
        DAG("d", schedule=None),
        pytest.raises(ValueError, match=r"Item 1 of the expanded arguments: payload\[1\] is a set"),
    ):
        KernelInvokeOperator.partial(task_id="t", app_name="shop", action_name="price").expand(
            payload={"a": 1, "b": {1}}
        )


def test_reference_in_expand_is_not_checked_at_parse():
    partial = {"app_name": "shop", "action_name": "price"}
    with DAG("d", schedule=None):
        output = task(nothing)()
        KernelInvokeOperator.partial(task_id="a", **partial).expand(payload=output)
        KernelInvokeOperator.partial(task_id="b", **partial).expand_kwargs(output)
        KernelInvokeOperator.partial(task_id="c", **partial).expand(payload={"a": 1, "b": 2})
        mixed = KernelInvokeOperator.partial(task_id="e", **partial).expand(
            payload=[None, build, "{{ ds }}", {"a": output}]
        )
    assert mixed.operator_class is KernelInvokeOperator
    assert set(mixed.expand_input.value) == {"payload"}


def test_literal_beside_a_template_is_checked_at_parse():
    with pytest.raises(ValueError, match=r"payload\['when'\] is a datetime"):
        operator(payload={"day": "{{ ds }}", "when": datetime(2026, 1, 1, tzinfo=UTC)})


def test_names_payload_and_connection_are_templated():
    assert set(KernelInvokeOperator.template_fields) == {
        "app_name",
        "action_name",
        "payload",
        "version",
        "kernel_conn_id",
    }
    assert KernelInvokeOperator.template_fields_renderers == {"payload": "json"}
