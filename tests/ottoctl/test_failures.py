"""Every cause of failure has words for what happened and what to do."""

import pytest

from ottoctl.failures import CAUSES, Facts, facts_of, remedy, what
from ottoscaler.v1.pipeline_pb2 import PipelineRequest, StageRun
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineResponse
from ottoscaler.v1.stage_pb2 import PipelineStage
from ottoscaler.v1.worker_pb2 import FailureCause, Resources

ALL = [name.removeprefix("FAILURE_CAUSE_") for name, number in FailureCause.items() if number]


@pytest.mark.parametrize("cause", ALL)
def test_each_cause_of_the_contract_is_in_the_table(cause: str) -> None:
    """A cause that the contract knows has a remedy, and words where the service's own don't say it."""
    assert cause in CAUSES
    assert remedy(cause, Facts()).startswith("→ ")
    assert what(cause, Facts()) or cause == "EXIT_CODE"
    assert "None" not in what(cause, Facts()) + remedy(cause, Facts())


def test_an_unknown_cause_is_no_error() -> None:
    """A newer service may know others."""
    assert (what("SOMETHING_NEW", Facts()), remedy("SOMETHING_NEW", Facts()), what("", Facts())) == ("", "", "")


@pytest.mark.parametrize(
    ("cause", "facts", "said", "done"),
    [
        ("OOM_KILLED", Facts(memory="1Gi"), "killed at 1Gi", "raise otto.memory (now 1Gi)"),
        ("OOM_KILLED", Facts(), "out of memory", "set otto.memory"),
        ("TIMEOUT", Facts(timeout=90), "stopped after 90 s", "timeout (now 90 s)"),
        ("TIMEOUT", Facts(timeout=90, approval=True, approvers=("kim", "lee")), "nobody decided within 90 s", "have kim, lee approve"),
        ("EXIT_CODE", Facts(exit_code=127), "a program was not found", "PATH"),
        ("EXIT_CODE", Facts(exit_code=126), "may not be run", "permission"),
        ("EXIT_CODE", Facts(exit_code=139), "killed by SIGSEGV", "last lines"),
        ("EXIT_CODE", Facts(exit_code=137), "killed by SIGKILL", "out of memory"),
        ("EXIT_CODE", Facts(exit_code=7), "", "retry.maxAttempts"),
        ("EXIT_CODE", Facts(exit_code=255), "", "last lines"),
        ("IMAGE_PULL", Facts(image="node:2O"), "node:2O", "name and tag"),
        ("UNSCHEDULABLE", Facts(cpu="64"), "cpu 64", "otto.cpu"),
        ("REJECTED", Facts(approval=True), "approval was refused", "said why"),
        ("REJECTED", Facts(), "refused to start it", "as it is"),
        ("EVICTED", Facts(attempts=3), "thrown out", "3×"),
        ("INTERNAL", Facts(attempts=2), "fault of Ottoscaler", "ottoctl doctor"),
        ("NODE_LOST", Facts(attempts=3), "machine went away, did not answer", "3×. `ottoctl status`"),
        ("DELETED", Facts(), "removed it while it ran", "state directory"),
        ("CANCELLED", Facts(), "stopped on request", "ottoctl pipeline get"),
        ("QUOTA", Facts(), "quota refused", "ask for less"),
    ],
    ids=lambda v: v if isinstance(v, str) and v.isupper() else "",
)
def test_words_name_the_limit_that_was_met(cause: str, facts: Facts, said: str, done: str) -> None:
    """What is known of the stage stands in the words."""
    assert said in what(cause, facts)
    assert done in remedy(cause, facts)


def test_facts_come_from_the_run() -> None:
    """Limits stand in the request, by field or by `otto.` key; the rest in the stage as it ran."""
    by_key = PipelineStage(stage_id="a", timeout_seconds=5, config={"otto.memory": "1Gi", "otto.cpu": "2"})
    by_field = PipelineStage(stage_id="b", resources=Resources(memory="2Gi"), image="x\x1b[2J:1")
    run = GetPipelineResponse(request=PipelineRequest(stages=[by_key, by_field]))
    run.stages.extend([StageRun(stage_id="a", exit_code=0, attempt=2), StageRun(stage_id="b"), StageRun(stage_id="otto.checkout")])
    run.stages[1].approval.approvers.append("kim")
    facts = facts_of(run)
    assert facts["a"] == Facts(exit_code=0, memory="1Gi", cpu="2", timeout=5, attempts=2)
    assert facts["b"] == Facts(memory="2Gi", image="x:1", approval=True, approvers=("kim",))
    assert facts["otto.checkout"] == Facts()
