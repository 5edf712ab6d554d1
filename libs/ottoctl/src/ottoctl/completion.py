"""What a shell may complete beside commands and options: ids, stages, tasks and workers, asked of the service.

A shell waits for it at every press of a key, so the service has a second, and whatever goes wrong is silence. Names of files are the
shell's own business: where nothing is offered here, it offers them.
"""

import os
import re
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import typer

from ottoctl.context import DEFAULT_ADDRESS

ANSWER_SECONDS = 1.0
OFFERED = 200
"""Most values that are offered at once."""
Offer = Callable[[typer.Context, str], list[Any]]
_BREAKS = ":="
"""Characters at which bash takes words apart (COMP_WORDBREAKS) although they stand in ids and options."""
_TAKEN_APART = "_OTTOCTL_WORDS_TAKEN_APART"
_PLAIN = re.compile(r"(?=[\x00-\x7f])([^\w@%+=:,./-])")


class Value(str):
    """A value as the shell is to insert it. It has been matched already: typer would compare what is quoted with what is not."""

    __slots__ = ()

    def startswith(self, *_: Any) -> bool:
        """Always: see above."""
        return True


def whole_words(environ: MutableMapping[str, str]) -> None:
    """Puts words together that bash took apart at `:` and `=`: an id may hold either. To be called before they are read.

    bash wants only what follows the last of them then: `_offered` cuts it.
    """
    if environ.get("_OTTOCTL_COMPLETE") != "complete_bash":
        return
    words, place = environ.get("COMP_WORDS", "").split("\n"), int(environ.get("COMP_CWORD") or 0)
    joined, joined_place, open_ended = words[:1], 0, False
    for number, word in enumerate(words[1:], 1):
        breaks = bool(word) and not word.strip(_BREAKS)
        if number > 1 and (breaks or (open_ended and word)):
            joined[-1] += word
        else:
            joined.append(word)
        open_ended = breaks
        if number == place:
            joined_place = len(joined) - 1
    if len(joined) < len(words):
        environ.update({"COMP_WORDS": "\n".join(joined), "COMP_CWORD": str(joined_place), _TAKEN_APART: "1"})


def pipeline_ids(context: typer.Context, incomplete: str) -> list[Any]:
    """Ids of runs, newest first, with their states."""
    return _offered(incomplete, lambda: _runs(context, ()))


def running_ids(context: typer.Context, incomplete: str) -> list[Any]:
    """Ids of runs that have not ended."""
    from ottoscaler.v1.pipeline_pb2 import PipelineState

    return _offered(incomplete, lambda: _runs(context, (PipelineState.PIPELINE_STATE_RUNNING,)))


def stage_ids(context: typer.Context, incomplete: str) -> list[Any]:
    """Stages of the pipeline that the line names."""
    from ottoctl.progress import status_word

    def stages() -> Iterable[tuple[str, str]]:
        return [(stage.stage_id, status_word(stage.status).lower()) for stage in _run(context).stages]

    return _offered(incomplete, stages)


def waiting_stages(context: typer.Context, incomplete: str) -> list[Any]:
    """Stages of the pipeline that the line names which wait for an approval."""
    return _offered(incomplete, lambda: [(stage, "waits for approval") for stage in _run(context).summary.awaiting_approval])


def worker_names(context: typer.Context, incomplete: str) -> list[Any]:
    """Names of workers, unfinished and newest first."""
    return _offered(incomplete, lambda: [(worker.pod_name, f"{worker.status}, {worker.task_id}") for worker in _workers(context)])


def task_ids(context: typer.Context, incomplete: str) -> list[Any]:
    """Tasks that have workers."""
    return _offered(incomplete, lambda: [(task, "") for task in dict.fromkeys(worker.task_id for worker in _workers(context))])


def one_of(*words: str) -> Offer:
    """Completes fixed words."""

    def offer(context: typer.Context, incomplete: str) -> list[Any]:  # noqa: ARG001  typer tells arguments by their types
        return [word for word in words if word.startswith(incomplete)]

    return offer


def _offered(incomplete: str, ask: Callable[[], Iterable[tuple[str, str]]]) -> list[Any]:
    try:
        values = [(value, said) for value, said in ask() if value.startswith(incomplete) and value.isprintable()][:OFFERED]
    except Exception:  # noqa: BLE001, RUF100  whatever it is: a line that is being typed is no place for it
        return []
    there = max(map(incomplete.rfind, _BREAKS)) + 1 if os.environ.get(_TAKEN_APART) else 0
    offered = [(Value(_quoted(value[there:])), said) for value, said in values]
    return [(value, said) if said else value for value, said in offered]


def _quoted(value: str) -> str:
    """As the shell wants it: bash inserts what it is given, the others quote by themselves."""
    return _PLAIN.sub(r"\\\1", value) if "bash" in os.environ.get("_OTTOCTL_COMPLETE", "") else value


def _channel(context: typer.Context) -> Any:
    os.environ["GRPC_VERBOSITY"] = "NONE"  # gRPC's core would write into the line
    import grpc

    address = context.find_root().params.get("address") or os.environ.get("OTTO_ADDRESS") or DEFAULT_ADDRESS
    return grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])


def _runs(context: typer.Context, states: Iterable[Any]) -> list[tuple[str, str]]:
    from ottoscaler.v1.pipeline_pb2 import PipelineState
    from ottoscaler.v1.pipeline_service_pb2 import ListPipelinesRequest
    from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub

    with _channel(context) as channel:
        request = ListPipelinesRequest(page_size=OFFERED, states=states)
        answer: Any = PipelineServiceStub(channel).ListPipelines(request, timeout=ANSWER_SECONDS)
    return [
        (run.pipeline_id, f"{PipelineState.Name(run.state).removeprefix('PIPELINE_STATE_').lower()}, {run.name or run.pipeline_id}")
        for run in answer.pipelines
    ]


def _run(context: typer.Context) -> Any:
    from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest
    from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub

    identity = context.params.get("identity") or context.params.get("pipeline") or ""
    with _channel(context) as channel:
        return PipelineServiceStub(channel).GetPipeline(GetPipelineRequest(pipeline_id=identity), timeout=ANSWER_SECONDS)


def _workers(context: typer.Context) -> Any:
    from ottoscaler.v1.ottoscaler_service_pb2 import WorkerStatusRequest
    from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub

    with _channel(context) as channel:
        answer: Any = OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest(), timeout=ANSWER_SECONDS)
    return answer.workers
