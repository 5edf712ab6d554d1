"""Where a run is shown: line by line in a pipe, as data for programs, or in the live view."""

from __future__ import annotations  # the live view is imported on terminals only

import sys
from typing import TYPE_CHECKING, Protocol

from ottoctl.progress import Run, Stage, said, status_word
from ottoctl.render import Output, as_data, emit
from ottoctl.terminal import harmless

if TYPE_CHECKING:
    from ottoctl.live import LiveView
    from ottoscaler.v1.log_pb2 import BuildLogEntry
    from ottoscaler.v1.pipeline_pb2 import PipelineProgress

SILENCE_SECONDS = 75.0
"""Silence after a run's end after which no more lines are expected: more than the relay itself waits for a stage's last ones (60 s)."""
LAST_LINE_SECONDS = 1.0
"""The same where only each stage's last line is shown."""


class View(Protocol):
    """Where a run is shown."""

    patience: float
    """Seconds of silence for which lines are waited for once the run has ended; 0: it shows none."""
    in_order: bool
    """Whether what is said of a stage's end stands below its lines."""

    def heard(self, message: PipelineProgress) -> None:
        """A message came, and the Run has taken it in."""

    def asked(self, stage: Stage, command: str) -> None:
        """A stage waits for an approval, which the command gives."""

    def line(self, stage: Stage, entry: BuildLogEntry) -> None:
        """A worker wrote a line."""

    def flush(self) -> None:
        """No more lines for now."""

    def say(self, text: str) -> None:
        """Something else to tell."""


class PlainView:
    """One line for each thing that happens; for pipes and logs."""

    def __init__(self, run: Run, *, logs: bool) -> None:
        self._run = run
        self.patience = SILENCE_SECONDS if logs else 0.0
        self.in_order = logs

    def heard(self, message: PipelineProgress) -> None:
        """Prints the time, the stage, its state and what was said."""
        time = message.timestamp[11:19]
        stage = self._run.stages[message.stage_id] if message.stage_id else None
        name = stage.name if stage else "pipeline"
        attempt = f" (attempt {message.attempt})" if message.attempt > 1 else ""
        words = said(message, stage)
        print(f"{time} {name}: {status_word(message.status)}{attempt}" + (f" {words}" if words else ""), flush=True)

    def asked(self, stage: Stage, command: str) -> None:  # noqa: ARG002  its message has named it
        """Prints the command."""
        self.say(f"  {command}")

    def line(self, stage: Stage, entry: BuildLogEntry) -> None:
        """Prints the line behind its stage, and its worker's number where there are several."""
        number = f"/{entry.entry.worker_id.rsplit('-', 1)[-1]}" if stage.worker_count > 1 else ""
        print(f"{stage.name}{number} | {harmless(entry.entry.message)}")

    def flush(self) -> None:
        """Hands the lines on."""
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Prints to standard error."""
        print(text, file=sys.stderr, flush=True)


class DataView:
    """An object for each message and each line: `{"progress": …}` or `{"line": …}`."""

    def __init__(self, output: Output, *, logs: bool) -> None:
        self._output = output
        self.patience = SILENCE_SECONDS if logs else 0.0
        self.in_order = logs

    def heard(self, message: PipelineProgress) -> None:
        """Prints the message."""
        emit({"progress": as_data(message)}, self._output)

    def asked(self, stage: Stage, command: str) -> None:
        """Nothing to do: the message says it."""

    def line(self, stage: Stage, entry: BuildLogEntry) -> None:  # noqa: ARG002  the entry names it
        """Prints the line."""
        emit({"line": as_data(entry)}, self._output)

    def flush(self) -> None:
        """Hands the lines on."""
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Prints to standard error."""
        print(text, file=sys.stderr, flush=True)


class TerminalView:
    """The live view, drawn by `live.LiveView`; lines show as each stage's last."""

    patience = LAST_LINE_SECONDS
    in_order = False

    def __init__(self) -> None:
        self.live: LiveView | None = None

    def heard(self, message: PipelineProgress) -> None:
        """Says above the picture that nothing can be stored; all else is drawn from the Run."""
        if not message.sequence:
            self.say(f"pipeline: {harmless(message.message)}")

    def asked(self, stage: Stage, command: str) -> None:
        """Says above the picture who is waited for, and the command."""
        self.say(f"{stage.name}: {stage.message}")
        self.say(f"  {command}")

    def line(self, stage: Stage, entry: BuildLogEntry) -> None:
        """Keeps it as the stage's last line."""
        text = harmless(entry.entry.message)
        if text.strip():
            stage.last_line = text

    def flush(self) -> None:
        """Nothing to do: the picture is drawn a few times a second."""

    def say(self, text: str) -> None:
        """Prints above the picture."""
        if self.live is not None:
            self.live.say(text)
