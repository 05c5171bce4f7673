"""A payload that is in a JSON file beside the Dag."""

from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

NAMES = {"task_id": "t", "app_name": "shop", "action_name": "price"}


@pytest.fixture
def dag(tmp_path):
    """A Dag with the folder of its payloads."""
    (tmp_path / "payloads").mkdir()
    with DAG("d", schedule=None, template_searchpath=str(tmp_path)) as dag:
        yield dag


@pytest.fixture
def write(tmp_path):
    return lambda name, text: (tmp_path / name).write_text(text)


def loaded(dag, **arguments):
    """The operator as it is after its Dag was loaded."""
    operator = KernelInvokeOperator(**NAMES, **arguments)
    dag.resolve_template_files()
    return operator


def rendered(operator, **context):
    operator.render_template_fields(context)
    return operator


def test_the_file_is_rendered_and_is_the_payload(dag, write):
    write("payloads/report.json", '{"day": "{{ ds }}", "source": "https://shop.example/all.json"}')
    operator = rendered(loaded(dag, payload="payloads/report.json"), ds="2026-11-24")
    assert json.loads(operator.request({}).payload) == {
        "day": "2026-11-24",
        "source": "https://shop.example/all.json",
    }


def test_a_file_that_is_first_named_when_the_task_runs_is_read_too(dag, write):
    """So it is with ``.expand(payload=[…])``: the operator is made at run time."""
    write("payloads/report.json", '{"day": "{{ ds }}"}')
    operator = rendered(KernelInvokeOperator(**NAMES, payload="payloads/report.json"), ds="2026-11-24")
    assert json.loads(operator.request({}).payload) == {"day": "2026-11-24"}
    assert operator.payload["day"] == "2026-11-24"  # as map_index_template takes it


def test_a_file_that_is_no_json_once_it_is_rendered_fails_with_the_sentence_for_payloads(dag, write):
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
def test_a_text_within_the_payload_that_ends_like_a_file_is_left_a_text(tmp_path, payload, native, caplog):
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
def test_json_text_stays_json_whatever_the_dag_renders_templates_to(tmp_path, text, native, in_file):
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


def test_a_native_object_is_the_payload_that_it_is(tmp_path):
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
        ("[1]", "metadata_field adds a key to the payload, so that must be a dict"),
        ('{"key": 1}', "The payload has 'key' already"),
    ],
)
def test_a_file_whose_text_cannot_be_right_is_refused_when_the_dag_is_loaded(dag, write, text, says):
    write("payloads/report.json", text)
    with pytest.raises(ValueError, match=says):
        loaded(dag, payload="payloads/report.json", metadata_field="key")


def test_a_missing_file_is_refused_when_the_dag_is_loaded_and_says_what_to_write(dag):
    with pytest.raises(
        ValueError, match=r"no payload file 'payloads/nope.json'\. Write its path as seen from"
    ):
        loaded(dag, payload="payloads/nope.json")


def test_a_missing_file_says_so_too_when_the_task_runs(dag):
    with pytest.raises(
        ValueError, match=r"no payload file 'payloads/nope.json'\. Write its path as seen from"
    ):
        rendered(KernelInvokeOperator(**NAMES, payload="payloads/nope.json"))


def test_a_missing_include_is_not_taken_for_the_file(dag, write):
    write("payloads/report.json", '{% include "payloads/other.json" %}')
    with pytest.raises(Exception, match=r"payloads/other\.json") as missing:
        rendered(loaded(dag, payload="payloads/report.json"))
    assert type(missing.value).__name__ == "TemplateNotFound"


def test_no_payload_and_no_dag_are_no_trouble():
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
def test_partial_refuses_a_bad_argument_when_the_dag_is_parsed(arguments, says):
    with pytest.raises(ValueError, match=says):
        KernelInvokeOperator.partial(**{**NAMES, **arguments})


def test_partial_leaves_to_expand_what_expand_gives(dag):
    mapped = KernelInvokeOperator.partial(task_id="t", app_name="shop", metadata_field="key").expand(
        action_name=["price", "stock"], payload=[{"sku": 1}, {"sku": 2}]
    )
    assert mapped.task_id == "t"


def test_what_came_out_of_an_xcom_is_no_template_though_it_ends_like_a_file(dag):
    foreign = "{{ conn.db.password }}.json"
    operator = KernelInvokeOperator(**NAMES)
    assert operator.render_template(foreign, {}, dag.get_template_env(), {id(foreign)}) is foreign


@pytest.mark.parametrize("text", ['"42"', "null", '"abc"', "42"])
def test_a_file_with_a_mere_value_is_sent_alike_where_the_task_is_mapped(dag, write, text):
    write("payloads/value.json", text)
    plain = rendered(loaded(dag, payload="payloads/value.json"))
    mapped = rendered(KernelInvokeOperator(**NAMES | {"task_id": "mapped"}, payload="payloads/value.json"))
    assert mapped.request({}) == plain.request({})


@pytest.mark.parametrize("native", [False, True])
def test_a_file_that_comes_to_nothing_fails_alike_where_the_task_is_mapped(tmp_path, native):
    (tmp_path / "payload.json").write_text("{{ found | tojson }}")
    with DAG(
        "d", schedule=None, template_searchpath=str(tmp_path), render_template_as_native_obj=native
    ) as dag:
        plain = loaded(dag, payload="payload.json")
        mapped = KernelInvokeOperator(**NAMES | {"task_id": "mapped"}, payload="payload.json")
    for each in (plain, mapped):
        with pytest.raises(AirflowFailException, match="payload came to nothing"):
            rendered(each, found=None).request({})
