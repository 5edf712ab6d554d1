"""Each cause of failure in words: what happened, and what one can do about it. A table, because every cause needs both."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from ottoctl.terminal import harmless
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineResponse


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a failed stage beside its cause."""

    exit_code: int | None = None
    memory: str = ""
    """The limit as it was asked for; empty: none."""
    cpu: str = ""
    timeout: int = 0
    """Seconds; 0: the service's default."""
    image: str = ""
    approval: bool = False
    """It waited for an approval."""
    approvers: tuple[str, ...] = ()
    attempts: int = 0


def facts_of(run: GetPipelineResponse) -> dict[str, Facts]:
    """What a run knows of its stages, by id."""
    asked = {stage.stage_id: stage for stage in run.request.stages}
    found = {}
    for stage in run.stages:
        request = asked.get(stage.stage_id)
        found[stage.stage_id] = Facts(
            exit_code=stage.exit_code if stage.HasField("exit_code") else None,
            memory=harmless(request.resources.memory or request.config.get("otto.memory", "")) if request else "",
            cpu=harmless(request.resources.cpu or request.config.get("otto.cpu", "")) if request else "",
            timeout=request.timeout_seconds if request else 0,
            image=harmless(request.image) if request else "",
            approval=stage.HasField("approval") and not stage.attempt,
            approvers=tuple(harmless(name) for name in stage.approval.approvers),
            attempts=stage.attempt,
        )
    return found


def what(cause: str, facts: Facts) -> str:
    """What happened, where the service's own words may not say it; empty if there is nothing to add."""
    return _TABLE[cause][0](facts) if cause in _TABLE else ""


def remedy(cause: str, facts: Facts) -> str:
    """What one can do; empty if nothing is known of the cause."""
    return f"→ {_TABLE[cause][1](facts)}" if cause in _TABLE else ""


def _exit_code(facts: Facts) -> str:
    code = facts.exit_code
    if code is None:
        return "its command ended with an error"
    if code == 126:
        return "exit code 126: a program was found but may not be run (no x permission, or not a program for this machine)"
    if code == 127:
        return "exit code 127: a program was not found"
    if 128 < code < 128 + signal.NSIG:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            name = f"signal {code - 128}"
        return f"exit code {code}: killed by {name}, not by Ottoscaler"
    return ""  # the service's own words say it


def _exit_code_remedy(facts: Facts) -> str:
    if facts.exit_code in {126, 127}:
        return "check the name, PATH and permission in the script; workers that are processes find programs by OTTO_SCALER_WORKER_PATH"
    if facts.exit_code == 137:
        return "something outside killed it; was the whole machine out of memory (`dmesg`)? Limit the stage with otto.memory"
    return "its last lines say why; if it sometimes works when repeated: retry.maxAttempts"


def _memory(facts: Facts) -> str:
    return f"out of memory: killed at {facts.memory}" if facts.memory else "out of memory: killed"


def _memory_remedy(facts: Facts) -> str:
    more = f"raise otto.memory (now {facts.memory})" if facts.memory else "set otto.memory to what it needs"
    return f"{more}, or have it use less: fewer parallel jobs, or more workers with a part each (worker_count)"


def _timeout(facts: Facts) -> str:
    limit = f"{facts.timeout} s" if facts.timeout else "the service's default time"
    return f"nobody decided within {limit}" if facts.approval else f"too slow: stopped after {limit}"


def _timeout_remedy(facts: Facts) -> str:
    if facts.approval:
        who = ", ".join(facts.approvers) or "anybody"
        return f"run it again and have {who} approve in time (ottoctl pipeline approve), or raise the stage's timeout"
    now = f" (now {facts.timeout} s)" if facts.timeout else ""
    return f"raise the stage's timeout{now}, find in its last lines what it waited for, or split it over more workers (worker_count)"


def _rejected_remedy(facts: Facts) -> str:
    if facts.approval:
        return "whoever rejected it said why above; change that and run it again"
    return "change what was refused; it would be refused again as it is"


_TABLE: dict[str, tuple[Callable[[Facts], str], Callable[[Facts], str]]] = {
    "EXIT_CODE": (_exit_code, _exit_code_remedy),
    "OOM_KILLED": (_memory, _memory_remedy),
    "TIMEOUT": (_timeout, _timeout_remedy),
    "EVICTED": (
        lambda _: "it was thrown out from outside: its node had too little left, or somebody ended its supervisor",
        lambda f: f"run it again; it was tried {f.attempts or 1}×. If it comes back: see what the machine lacks (ottoctl doctor)",
    ),
    "NODE_LOST": (
        lambda _: "its machine went away, did not answer or was restarted while it ran",
        lambda f: (
            f"run it again; it was tried {f.attempts or 1}×. `ottoctl status` shows where workers run, `kubectl get nodes` who answers"
        ),
    ),
    "DELETED": (
        lambda _: "somebody or something removed it while it ran: its pod, its directory or its log",
        lambda _: "run it again; keep tools that tidy up away from Ottoscaler's state directory and its pods",
    ),
    "IMAGE_PULL": (
        lambda f: f"its image could not be pulled{f': {f.image}' if f.image else ''}",
        lambda _: "check the image's name and tag, and whether the cluster may pull it (imagePullSecrets)",
    ),
    "UNSCHEDULABLE": (
        lambda f: "no node could take it" + (f" with cpu {f.cpu or '-'} and memory {f.memory or '-'}" if f.cpu or f.memory else ""),
        lambda _: "ask for less (otto.cpu, otto.memory), or add nodes",
    ),
    "QUOTA": (
        lambda _: "a quota refused it",
        lambda _: "wait until others have ended, ask for less (otto.cpu, otto.memory), or have the quota raised",
    ),
    "REJECTED": (lambda f: "the approval was refused" if f.approval else "the service refused to start it", _rejected_remedy),
    "CANCELLED": (
        lambda _: "it was stopped on request",
        lambda _: "run it again if that was not meant; who asked for it stands in `ottoctl pipeline get`",
    ),
    "INTERNAL": (
        lambda _: "a fault of Ottoscaler or of the machine, not of the command",
        lambda f: f"run it again (it was tried {f.attempts or 1}×); if it comes back: ottoctl doctor, and the service's log",
    ),
}
"""By the name of the cause."""
CAUSES = frozenset(_TABLE)
