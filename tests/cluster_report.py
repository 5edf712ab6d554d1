"""What is in a namespace of the real cluster and happened there, in one file, for whoever has to find out why a test failed."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPORTS = Path(os.environ.get("OTTO_TEST_REPORTS", Path(__file__).resolve().parents[1] / ".reports"))
_SECONDS = 60
_LINES = 5000
"""Of each container's log, the last ones."""
_there: list[str] = []
"""The namespaces that tests have now."""


@contextmanager
def reported(namespace: str) -> Iterator[None]:
    """While a namespace is there: a test that fails meanwhile leaves a report of it, as does what fails in here."""
    _there.append(namespace)
    try:
        yield
    except Exception as error:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].rpartition("::")[2]
        error.add_note(f"what was in namespace {namespace}: {written(test, namespace)}")
        raise
    finally:
        _there.remove(namespace)


def tell(outcome: pytest.TestReport, name: str) -> None:
    """Writes the reports of a failed test, before its namespaces are deleted, and says in the outcome where they are."""
    for namespace in _there:
        outcome.sections.append(("cluster", f"what was in namespace {namespace}: {written(name, namespace)}"))


def written(name: str, namespace: str) -> str:
    """Writes the report of a namespace for the test of this name; the path of it, or why there is none."""
    path = REPORTS / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)}-{namespace}.txt"
    try:
        REPORTS.mkdir(exist_ok=True)
        path.write_text(report(namespace))
    except OSError as error:
        return f"not written: {error}"
    return str(path)


def report(namespace: str) -> str:
    """All of it; no part that can't be had stops the others."""

    def listed(*words: str) -> str:
        command = ("kubectl", f"--namespace={namespace}", *words)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{error}\n"
        return done.stdout or f"{done.stderr.strip()}\n"

    def logs_of(pod: str, *words: str) -> str:
        return listed("logs", pod, "--all-containers", "--prefix", "--timestamps", "--ignore-errors", f"--tail={_LINES}", *words)

    names = [name for name in listed("get", "pods", "--output=name").split() if name.startswith("pod/")]
    restarts = listed(
        "get", "pods", "--output=jsonpath={range .items[?(@.status.containerStatuses[0].restartCount)]}pod/{.metadata.name} {end}"
    )
    parts: list[tuple[str, Callable[[], str]]] = [
        ("nodes", lambda: listed("get", "nodes", "--output=wide")),
        ("objects", lambda: listed("get", "all,persistentvolumeclaims,configmaps,leases", "--output=wide")),
        ("events", lambda: listed("get", "events", "--sort-by=.lastTimestamp", "--output=wide")),
        ("pods", lambda: listed("describe", "pods")),
        ("runs", lambda: listed("get", "pipelineruns", "--output=yaml")),
        *((f"logs of {name}", lambda name=name: logs_of(name)) for name in names),
        *(
            (f"logs of {name} before it restarted", lambda name=name: logs_of(name, "--previous"))
            for name in restarts.split()
            if name in names
        ),
    ]
    return "\n".join(f"##### {title}\n{text()}" for title, text in parts)
