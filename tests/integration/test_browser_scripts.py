"""Playwright scripts in browsers of the emulator."""

import asyncio
import time

import kernel
import pytest

from airflow_provider_kernel.emulator.browsers.script import find_playwright
from airflow_provider_kernel.emulator.contract import ApiError
from airflow_provider_kernel.testing import KernelEmulator
from dev.wait import wait_until
from tests.integration.browsing import APP, Person, needs_chromium
from tests.integration.conftest import client_of

pytestmark = [pytest.mark.no_airflow, needs_chromium]


@pytest.fixture(scope="module")
def emulator():
    with KernelEmulator([APP]) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def person(emulator):
    client = client_of(emulator)
    return Person(client, client.browsers.create(headless=True, timeout_seconds=600).session_id)


@pytest.fixture
def run(person, site):
    person.open(f"{site}/before")
    return lambda code, **options: person.client.browsers.playwright.execute(person.id, code=code, **options)


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("return await page.title()", "/before"),
        ("return [browser.contexts().length, context.pages().includes(page)]", [1, True]),
        ("const n: number = 1; interface A { a: string }; return { n } as unknown", {"n": 1}),
        ("return undefined", None),
        ("", None),
        ("return 'é€日'", "é€日"),
        ("// the last line is a comment", None),
    ],
)
def test_a_script_returns_a_value(person, site, code, result):
    person.open(f"{site}/before")
    done = person.client.browsers.playwright.execute(person.id, code=code or "\n;")
    assert (done.success, done.result, done.error) == (True, result, None)


def test_what_a_script_prints_is_returned(run):
    done = run("console.log('out', 1); console.error('err'); return 1")
    assert (done.stdout, done.stderr, done.result) == ("out 1\n", "err\n", 1)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("throw new TypeError('no such product')", "TypeError: no such product"),
        ("throw 'text'", "'text'"),
        (
            "return await page.click('#nothing', { timeout: 100 })",
            "TimeoutError: page.click: Timeout 100ms exceeded.",
        ),
        ("this is no script", "SyntaxError: "),
        ("return 1n", "TypeError: Do not know how to serialize a BigInt"),
        ("const a = {}; a.a = a; return a", "TypeError: Converting circular structure to JSON"),
        ("process.exit(3)", "The script's process ended early, with status 3"),
        ("setTimeout(() => { throw new Error('later') }); await new Promise(() => {})", "Error: later"),
    ],
)
def test_a_script_that_fails_is_no_error_of_the_api(run, code, error):
    done = run(code)
    assert not done.success
    assert done.error.startswith(error)


@pytest.mark.parametrize(
    "code",
    [
        "await new Promise(done => setTimeout(done, 1500)); await page.evaluate(() => { document.title = 'late' })",
        "for (;;) { await page.evaluate(() => { document.title = 'late' }); await page.waitForTimeout(50) }",
        "await page.evaluate(() => new Promise(done => setInterval(() => { document.title = 'late' }, 50)))",
        "await page.evaluate(async () => { for (;;) { document.title = 'late'; await new Promise(requestAnimationFrame) } })",
        "await page.evaluate(() => { for (;;) document.title = 'late' })",
    ],
    ids=["one change", "a loop of calls", "a timer in the page", "frames of the page", "a busy page"],
)
def test_a_script_that_exceeds_its_time_changes_nothing_afterwards(run, person, code):
    started = time.monotonic()
    done = run(code, timeout_sec=1)
    assert (done.success, done.error) == (False, "The script exceeded its time of 1 second")
    assert time.monotonic() - started > 1
    person.page("(document.title = 'after')")
    # Longer than any of the scripts waits.
    assert person.evaluate("await page.waitForTimeout(1500); return await page.title()") == "after"


def test_a_page_that_a_script_opens_stays_and_is_the_next_ones_page(run, person, site):
    run(f"const other = await context.newPage(); await other.goto('{site}/other')")
    assert person.evaluate("return await page.title()") == "/other"
    run("await page.close()")
    assert person.evaluate("return await page.title()") == "/before"


def test_scripts_of_one_executor_wait_for_each_other_and_others_do_not(emulator, person, run):
    async def execute():
        async with kernel.AsyncKernel(base_url=emulator.base_url, api_key=emulator.api_key) as client:
            code = "const from = Date.now(); await page.waitForTimeout(700); return [from, Date.now()]"
            calls = [{}, {}, {"executor": "other"}]
            return await asyncio.gather(
                *(client.browsers.playwright.execute(person.id, code=code, **call) for call in calls)
            )

    first, second, other = (done.result for done in asyncio.run(execute()))
    earlier, later = sorted([first, second])
    assert earlier[1] <= later[0]
    assert other[0] < later[0]


def test_a_dialog_that_nobody_answers_is_dismissed(run, person):
    run(
        "setTimeout(() => process.exit(), 0); await page.evaluate(() => { setTimeout(() => alert('hello'), 300) })"
    )
    wait_until(
        lambda: person.client.browsers.computer.capture_screenshot(person.id).read(), 30, "a screenshot", 0.05
    )
    person.sees("document.title", "/before")


def test_without_playwright_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("airflow_provider_kernel.emulator.browsers.script.find_spec", lambda name: None)
    with pytest.raises(ApiError, match="run pip install playwright") as caught:
        find_playwright([tmp_path])
    assert caught.value.status_code == 501


def test_the_playwright_of_an_apps_node_modules_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr("airflow_provider_kernel.emulator.browsers.script.find_spec", lambda name: None)
    (tmp_path / "node").write_text("#!/bin/sh\n")
    (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    package = tmp_path / "app/node_modules/playwright-core"
    package.mkdir(parents=True)
    (tmp_path / "app/src").mkdir()
    assert find_playwright([tmp_path / "app/src"]) == (str(tmp_path / "node"), str(package))
