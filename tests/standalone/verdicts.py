"""Which readable requests the contract calls wrong: a second, plain reading of the comments in protos/, to hold answers against.

Nothing of the services is used here, so that a rule that is wrong there is not wrong here in the same way.
"""

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

PIPELINE_ID, STAGE_ID, TASK_ID, WORDS = 253, 1024, 4096, 4096
"""Most bytes of each, as the README has them."""
STATES = ("pending", "running", "succeeded", "failed")
DROP = 2
LEVELS, SOURCES = ("INFO", "ERROR", "DEBUG", "WARN"), ("stdout", "stderr")


@dataclass(frozen=True)
class Limits:
    """What the service was started with."""

    stage_workers: int
    workers: int
    request_workers: int


def no_id(text: str, most: int) -> bool:
    """Whether it can't be the id of a run or a stage, or the name of who decides."""
    return not text.strip() or len(text.encode()) > most or any(unicodedata.category(c) == "Cc" for c in text)


def _long(*texts: str) -> bool:
    return any(len(text.encode()) > WORDS for text in texts)


def _watch(request: Any, _: Limits) -> bool | None:
    return no_id(request.pipeline_id, PIPELINE_ID) or request.after_sequence < 0


def _get(request: Any, _: Limits) -> bool | None:
    return no_id(request.pipeline_id, PIPELINE_ID)


def _list(request: Any, _: Limits) -> bool | None:
    if not 0 <= request.page_size <= 500:
        return True
    # which tokens were given out is not known here, nor what becomes of numbers that are no state beside the one for any
    return None if request.page_token or not set(request.states) <= set(range(5)) else False


def _cancel(request: Any, _: Limits) -> bool | None:
    return no_id(request.pipeline_id, PIPELINE_ID) or _long(request.reason, request.cancelled_by)


def _approve(request: Any, _: Limits) -> bool | None:
    ids = no_id(request.pipeline_id, PIPELINE_ID) or no_id(request.stage_id, STAGE_ID) or no_id(request.user, WORDS)
    return ids or _long(request.comment) or request.decision not in {1, 2}


def _rerun(request: Any, _: Limits) -> bool | None:
    new = request.new_pipeline_id
    return no_id(request.pipeline_id, PIPELINE_ID) or (bool(new) and no_id(new, PIPELINE_ID)) or _long(request.triggered_by)


def _run(request: Any, limits: Limits) -> bool | None:
    """Only what is surely wrong about a pipeline; whether all of it is right, property tests ask."""
    if not request.stages:
        return no_id(request.pipeline_id, PIPELINE_ID)
    return _pipeline(request, limits)


def _pipeline(request: Any, limits: Limits) -> bool | None:
    ids = [stage.stage_id for stage in request.stages]
    # an approval may have no workers
    counts = [max(stage.worker_count, 1) for stage in request.stages if stage.type != 7 and "otto.approvers" not in stage.config]
    wrong = (
        not ids
        or no_id(request.pipeline_id, PIPELINE_ID)
        or any(no_id(stage_id, STAGE_ID) for stage_id in ids)
        or len(set(ids)) < len(ids)
        or sum(counts) > limits.workers
        or any(
            not {*stage.depends_on} <= {*ids, "otto.checkout"}
            or stage.stage_id in stage.depends_on
            or not 0 <= stage.worker_count <= limits.stage_workers
            or not 0 <= stage.timeout_seconds <= 604_800
            or not 0 <= stage.retry_policy.max_attempts <= 100
            for stage in request.stages
        )
    )
    return True if wrong else None


def _validate(_: Any, __: Limits) -> bool | None:
    """It never refuses: what is wrong is its answer."""
    return False


def _scale_up(request: Any, limits: Limits) -> bool | None:
    no_task = not request.task_id.strip() or len(request.task_id.encode()) > TASK_ID or "\0" in request.task_id
    return True if no_task or not 1 <= request.worker_count <= limits.request_workers else None


def _scale_down(request: Any, _: Limits) -> bool | None:
    return not request.task_id or request.worker_count < 0


def _status(request: Any, _: Limits) -> bool | None:
    return request.status_filter not in {"", *STATES}


def _release(request: Any, _: Limits) -> bool | None:
    return request.releaser not in {0, 1, 2} or len(request.worker_pod_names) > 10_000


def _workspace(request: Any, _: Limits) -> bool | None:
    name = request.workspace
    label = all(c in "abcdefghijklmnopqrstuvwxyz0123456789-" for c in name) and name.strip("-") == name
    return not (name and len(name) <= 63 and label)


def _selection(chosen: Any) -> bool:
    times = [getattr(chosen, name) for name in ("since_time", "until_time") if chosen.HasField(name)]
    return (
        not 0 <= chosen.tail_lines <= 1_000_000
        or chosen.after_sequence < 0
        or any(level.upper() not in LEVELS for level in chosen.levels)
        or any(source.lower() not in SOURCES for source in chosen.sources)
        or len(chosen.keywords) > 100
        or any(not 1 <= len(word) <= 1000 for word in chosen.keywords)
        or any(not (0 <= time.nanos < 10**9 and -62_135_596_800 <= time.seconds <= 253_402_300_799) for time in times)
        or (len(times) == 2 and (times[0].seconds, times[0].nanos) >= (times[1].seconds, times[1].nanos))
    )


def _worker_lines(request: Any, _: Limits) -> bool | None:
    chosen = request.selection
    if not (request.worker_id or request.task_id) or _selection(chosen) or (chosen.after_sequence and not request.worker_id):
        return True
    return None if chosen.after_sequence else False  # which sequences there are is not known here


def _build_lines(request: Any, _: Limits) -> bool | None:
    if not request.pipeline_id or request.attempt < 0 or _selection(request.selection):
        return True
    return None if request.selection.after_sequence else False


def _tail(request: Any, limits: Limits) -> bool | None:
    match request.WhichOneof("target"):
        case "worker":
            return _worker_lines(request.worker, limits)
        case "build":
            return _build_lines(request.build, limits)
    return True


_RULES: Mapping[str, Callable[[Any, Limits], bool | None]] = {
    "PipelineService/ExecutePipeline": _run,
    "OttoscalerService/ExecutePipeline": _run,
    "PipelineService/WatchPipeline": _watch,
    "PipelineService/GetPipeline": _get,
    "PipelineService/ListPipelines": _list,
    "PipelineService/CancelPipeline": _cancel,
    "PipelineService/ApproveStage": _approve,
    "PipelineService/ValidatePipeline": _validate,
    "PipelineService/RerunPipeline": _rerun,
    "OttoscalerService/ScaleUp": _scale_up,
    "OttoscalerService/ScaleDown": _scale_down,
    "OttoscalerService/GetWorkerStatus": _status,
    "OttoscalerService/ReleaseWorkers": _release,
    "OttoscalerService/DeleteWorkspace": _workspace,
    "LogStreamingService/StreamWorkerLogs": _worker_lines,
    "LogStreamingService/StreamBuildLogs": _build_lines,
    "LogStreamingService/TailLogs": _tail,
}
"""By method, whether a request is wrong; None: that can't be told from the request alone."""
ABOUT_A_RUN = frozenset(f"PipelineService/{name}Pipeline" for name in ("Get", "Watch", "Cancel", "Rerun")) | {
    "PipelineService/ApproveStage"
}
"""Methods that are NOT_FOUND for a run that nobody ever asked for."""


class Judge:
    """Says of every answer whether its status is the one that the contract has for that request."""

    def __init__(self, limits: Limits, known: Collection[str]) -> None:
        """`known` are the runs that are there before the first request."""
        self._limits = limits
        self._asked_for = set(known)
        self.judged = 0
        """Answers of which the request alone told what they have to be."""

    def sends(self, method: str, request: Message) -> None:
        """Has to be told of every request before it is sent: from then on there may be such a run."""
        for name in ("pipeline_id", "new_pipeline_id"):
            if method.endswith(("/ExecutePipeline", "/RerunPipeline")) and (text := getattr(request, name, "")):
                self._asked_for.add(text)

    def refuses(self, method: str, request: Any) -> bool:
        """Whether the answer can only be INVALID_ARGUMENT, so that no stream may be silent instead."""
        return method in _RULES and _RULES[method](request, self._limits) is True

    def objection(self, method: str, requests: Sequence[Any], status: grpc.StatusCode | None, answers: Sequence[Any]) -> str:
        """What the answer should have been; "" if it is right, or nobody can tell. None stands for a stream that was listened to."""
        if method in {"LogStreamingService/StreamLogs", "OttoHandlerLogService/ForwardWorkerLogs"}:
            return self._of_lines(requests, answers)
        if method not in _RULES:
            return ""
        request = requests[0]
        wrong = _RULES[method](request, self._limits)
        if method == "PipelineService/ValidatePipeline" and _pipeline(request.pipeline, self._limits):
            self.judged += 1
            return "" if all(answer.problems for answer in answers) else "should have named a problem"
        self.judged += wrong is not None
        refused = status is grpc.StatusCode.INVALID_ARGUMENT
        if wrong is not None and wrong is not refused:
            return "should have been INVALID_ARGUMENT" if wrong else "had nothing wrong in it"
        never_made = method in ABOUT_A_RUN and wrong is False and request.pipeline_id not in self._asked_for
        if never_made and status not in {None, grpc.StatusCode.NOT_FOUND}:
            return "should have been NOT_FOUND"
        return ""

    def _of_lines(self, requests: Sequence[Any], answers: Sequence[Any]) -> str:
        for line, answer in zip(requests, answers, strict=False):
            if not line.worker_id:
                self.judged += 1
                if answer.status != DROP:
                    return "should have dropped a line of nobody"
        return ""
