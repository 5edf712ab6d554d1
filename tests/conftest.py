"""What all tests share: no asyncio test may leave a task behind, and none may take away what the next one needs."""

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import hypothesis
import pytest

from .cluster_report import tell

# How long an example takes says more about what else runs on the machine than about what is tested.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# Whatever kubectl and helm would reach by themselves: tests act on the cluster that was named for them, and on no other.
if "OTTO_TEST_KUBECONFIG" in os.environ:
    os.environ["KUBECONFIG"] = os.environ["OTTO_TEST_KUBECONFIG"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts every asyncio test, and no other, under `no_task_left_behind`; what takes nodes away comes last."""
    items.sort(key=lambda item: item.get_closest_marker("disruptive") is not None)
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "no_task_left_behind")


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """The cluster's; tests reach its addresses too, because `make test-cluster` runs them inside its network namespace."""
    given = os.environ.get("OTTO_TEST_KUBECONFIG", "")
    if not given:
        pytest.fail("OTTO_TEST_KUBECONFIG names no cluster: `make cluster-up`, then `make test-cluster`", pytrace=False)
    return Path(given)


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fails a test that ends while a task it started still runs; fixtures of the test are torn down before."""
    before = asyncio.all_tasks()
    yield
    deadline = asyncio.get_running_loop().time() + 1.0
    while left := {task for task in asyncio.all_tasks() - before if not task.done() and task is not asyncio.current_task()}:
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail("tasks left running: " + ", ".join(sorted(f"{task.get_name()} {task.get_coro()!r}" for task in left)))
        await asyncio.sleep(0.01)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails on a real cluster leaves a report of its namespaces, written before those are deleted."""
    outcome = yield
    if outcome.when == "call" and outcome.failed:
        tell(outcome, item.name)
    return outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Of a test that was run once more, why it failed at first: what it says the second time may be of another matter."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"failed at first: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
