"""A payload in a JSON file beside the Dag, and a payload that is JSON text."""

from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

NAMES = {"task_id": "t", "app_name": "shop", "action_name": "price"}


@pytest.fixture
def dag(tmp_path):
    """A Dag with a folder of payload files."""
    (tmp_path / "payloads").mkdir()
    with DAG("d", schedule=None, template_searchpath=str(tmp_path)) as dag:
        yield dag


@pytest.fixture
def write(tmp_path):
    return lambda name, text: (tmp_path / name).write_text(text)


def loaded(dag, **arguments):
    """Return an operator after its Dag is parsed."""
    operator = KernelInvokeOperator(**NAMES, **arguments)
    dag.resolve_template_files()
    return operator


def rendered(operator, **context):
    operator.render_template_fields(context)
    return operator


def test_payload_file_is_rendered_and_sent(dag, write):
    write("payloads/report.json", '{"day": "{{ ds }}", "source": "https://shop.example/all.json"}')
    operator = rendered(loaded(dag, payload="payloads/report.json"), ds="2026-11-24")
    assert json.loads(operator.request({}).payload) == {
        "day": "2026-11-24",
        "source": "https://shop.example/all.json",
    }


def test_payload_file_of_a_mapped_task_is_read_at_run_time(dag, write):
    """Airflow creates the operator of a mapped task at run time."""
    write("payloads/report.json", '{"day": "{{ ds }}"}')
    operator = rendered(KernelInvokeOperator(**NAMES, payload="payloads/report.json"), ds="2026-11-24")
    assert json.loads(operator.request({}).payload) == {"day": "2026-11-24"}
    assert operator.payload["day"] == "2026-11-24"  # for map_index_template


def test_payload_file_rendered_to_text_that_is_not_json_fails_without_retry(dag, write):
    write("payloads/report.json", '{"day": {{ ds }}}')
    operator = rendered(KernelInvokeOperator(**NAMES, payload="payloads/report.json"), ds="today")
    with pytest.raises(AirflowFailException, match="payload is a string that is not JSON text"):
        operator.request({})


@pytest.mark.parametrize(
    "payload",
    [
        {"url": "https://shop.example/all.json"},
        ["payloads/report.json", "{{ ds }}.json"],
        {"nested": [{"name": "{{ ds }}.json"}]},
    ],
)
@pytest.mark.parametrize("native", [False, True])
def test_string_inside_a_payload_that_ends_in_json_is_not_read_as_a_file(tmp_path, payload, native, caplog):
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads/report.json").write_text("[]")
    with DAG(
        "d", schedule=None, template_searchpath=str(tmp_path), render_template_as_native_obj=native
    ) as dag:
        operator = rendered(loaded(dag, payload=payload), ds="2026-11-24")
    assert operator.payload == json.loads(json.dumps(payload).replace("{{ ds }}", "2026-11-24"))
    assert "Failed" not in caplog.text


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        r'{"mood": "\ud83d\ude00"}',
        r'{"url": "https:\/\/shop.example\/{{ ds }}"}',
        '{"day": "{{ ds }}", "ok": true, "none": null}',
        "{{ found | tojson }}",
        '"a text"',
    ],
)
def test_json_text_is_not_altered_by_native_rendering(tmp_path, text, native, in_file):
    (tmp_path / "payload.json").write_text(text)
    with DAG(
        "d", schedule=None, template_searchpath=str(tmp_path), render_template_as_native_obj=native
    ) as dag:
        operator = loaded(dag, payload="payload.json" if in_file else text)
        late = KernelInvokeOperator(
            **{**NAMES, "task_id": "late"}, payload="payload.json" if in_file else text
        )
    found = {"mood": "😀", "url": "a/b"}
    expected = text.replace("{{ ds }}", "2026-11-24").replace("{{ found | tojson }}", json.dumps(found))
    for each in (operator, late):
        rendered(each, ds="2026-11-24", found=found)
        assert json.loads(each.request({}).payload) == json.loads(expected)


@pytest.mark.parametrize("text", ['{"n": 1.10}', '{"a": 1, "a": 2}', ' {"day": "{{ ds }}"} '])
def test_json_text_is_sent_to_the_letter_without_native_rendering(dag, text):
    operator = rendered(loaded(dag, payload=text), ds="2026-11-24")
    assert operator.request({}).payload == text.replace("{{ ds }}", "2026-11-24")


def test_text_that_is_not_json_is_read_as_python_by_native_rendering():
    with DAG("d", schedule=None, render_template_as_native_obj=True) as dag:
        operator = rendered(loaded(dag, payload="{'day': '{{ ds }}', 'ok': True}"), ds="2026-11-24")
    assert json.loads(operator.request({}).payload) == {"day": "2026-11-24", "ok": True}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("payload", ["{{ call() }}", '{"n": {{ call() }}}', {"n": "{{ call() }}"}])
def test_payload_is_rendered_once(payload, native):
    calls = []
    with DAG("d", schedule=None, render_template_as_native_obj=native) as dag:
        rendered(loaded(dag, payload=payload), call=lambda: calls.append(1))
    assert len(calls) == 1


def test_native_object_is_sent_as_the_payload(tmp_path):
    found = {"ok": True, "none": None, "mood": "😀"}
    with DAG("d", schedule=None, render_template_as_native_obj=True) as dag:
        operator = rendered(loaded(dag, payload="{{ found }}"), found=found)
    assert json.loads(operator.request({}).payload) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{'sku': 1}", "payload is a string that is not JSON text"),
        ("", "payload is a string that is not JSON text"),
        ('{"a": "\0"}', "payload file 'payloads/report.json' holds a NUL character"),
        ('{"a": "{{ ds }}\0"}', "payload file 'payloads/report.json' holds a NUL character"),
        ("[1]", "metadata_field adds a field to the payload, so the payload must be a dict"),
        ('{"key": 1}', "The payload already has the field 'key'"),
    ],
)
def test_payload_file_with_wrong_text_raises_at_parse(dag, write, text, says):
    write("payloads/report.json", text)
    with pytest.raises(ValueError, match=says):
        loaded(dag, payload="payloads/report.json", metadata_field="key")


def test_missing_payload_file_raises_at_parse(dag):
    with pytest.raises(
        ValueError, match=r"no payload file 'payloads/nope.json'\. Write its path as seen from"
    ):
        loaded(dag, payload="payloads/nope.json")


def test_missing_payload_file_raises_at_run_time(dag):
    with pytest.raises(
        ValueError, match=r"no payload file 'payloads/nope.json'\. Write its path as seen from"
    ):
        rendered(KernelInvokeOperator(**NAMES, payload="payloads/nope.json"))


def test_missing_include_of_a_payload_file_raises_jinjas_error(dag, write):
    write("payloads/report.json", '{% include "payloads/other.json" %}')
    with pytest.raises(Exception, match=r"payloads/other\.json") as missing:
        rendered(loaded(dag, payload="payloads/report.json"))
    assert type(missing.value).__name__ == "TemplateNotFound"


def test_operator_without_payload_and_dag_has_no_file_to_read():
    operator = KernelInvokeOperator(**NAMES)
    operator.resolve_template_files()
    assert operator.request({}).payload is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"app_name": ""}, "app_name is empty"),
        ({"poll_interval": 0}, "poll_interval must be seconds"),
        ({"metadata_field": 1}, "metadata_field must be a string"),
        ({"async_": False, "async_timeout_seconds": 60}, "Leave one of the two out"),
    ],
)
def test_wrong_argument_of_partial_raises_at_parse(arguments, says):
    with pytest.raises(ValueError, match=says):
        KernelInvokeOperator.partial(**{**NAMES, **arguments})


def test_partial_does_not_require_the_arguments_of_expand(dag):
    mapped = KernelInvokeOperator.partial(task_id="t", app_name="shop", metadata_field="key").expand(
        action_name=["price", "stock"], payload=[{"sku": 1}, {"sku": 2}]
    )
    assert mapped.task_id == "t"


def test_value_from_xcom_that_ends_in_json_is_not_rendered(dag):
    foreign = "{{ conn.db.password }}.json"
    operator = KernelInvokeOperator(**NAMES)
    assert operator.render_template(foreign, {}, dag.get_template_env(), {id(foreign)}) is foreign


@pytest.mark.parametrize("text", ['"42"', "null", '"abc"', "42"])
def test_payload_file_with_a_scalar_is_sent_alike_by_mapped_tasks(dag, write, text):
    write("payloads/value.json", text)
    plain = rendered(loaded(dag, payload="payloads/value.json"))
    mapped = rendered(KernelInvokeOperator(**NAMES | {"task_id": "mapped"}, payload="payloads/value.json"))
    assert mapped.request({}) == plain.request({})


@pytest.mark.parametrize("native", [False, True])
def test_payload_file_rendered_to_null_fails_alike_in_mapped_tasks(tmp_path, native):
    (tmp_path / "payload.json").write_text("{{ found | tojson }}")
    with DAG(
        "d", schedule=None, template_searchpath=str(tmp_path), render_template_as_native_obj=native
    ) as dag:
        plain = loaded(dag, payload="payload.json")
        mapped = KernelInvokeOperator(**NAMES | {"task_id": "mapped"}, payload="payload.json")
    for each in (plain, mapped):
        with pytest.raises(AirflowFailException, match="payload was rendered to nothing"):
            rendered(each, found=None).request({})
