"""The live view of a run on a terminal: one row a stage, the last line it wrote, a bar for the whole."""

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ottoctl.progress import ENDED, Run, Stage, duration, status_word
from ottoscaler.v1.stage_pb2 import StageStatus

LOOKS = {
    StageStatus.STAGE_PENDING: ("·", "dim"),
    StageStatus.STAGE_RUNNING: ("▶", "cyan"),
    StageStatus.STAGE_COMPLETED: ("✔", "green"),
    StageStatus.STAGE_FAILED: ("✘", "bold red"),
    StageStatus.STAGE_CANCELLED: ("■", "yellow"),
    StageStatus.STAGE_SKIPPED: ("↷", "dim"),
    StageStatus.STAGE_RETRYING: ("↻", "yellow"),
}
IMPORTANCE = {StageStatus.STAGE_FAILED: 0, StageStatus.STAGE_RUNNING: 1, StageStatus.STAGE_RETRYING: 1, StageStatus.STAGE_PENDING: 2}


class LiveView:
    """Draws a Run a few times a second while it is entered; the last picture stays."""

    def __init__(self, run: Run, console: Console) -> None:
        self._run = run
        self._console = console
        self._live = Live(get_renderable=self.picture, console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line above the picture."""
        self._console.print(Text(text, style="yellow"))

    def picture(self) -> RenderableType:
        """The run as it stands, as high as the terminal allows."""
        stages = list(self._run.stages.values())
        room = max(3, self._console.height - 6)
        hidden = 0
        if len(stages) > room:
            chosen = sorted(range(len(stages)), key=lambda i: (IMPORTANCE.get(stages[i].status, 3), -i))[: room - 1]
            hidden = len(stages) - len(chosen)
            stages = [stages[i] for i in sorted(chosen)]
        rows = Table(box=None, pad_edge=False, expand=True, show_header=True, header_style="dim")
        rows.add_column("", width=1)
        rows.add_column("stage", no_wrap=True, max_width=32)
        rows.add_column("state", no_wrap=True)
        rows.add_column("try", justify="right")
        rows.add_column("workers", justify="right", no_wrap=True)
        rows.add_column("time", justify="right", no_wrap=True)
        rows.add_column("last line", no_wrap=True, ratio=1, overflow="ellipsis")
        for stage in stages:
            rows.add_row(*self._row(stage))
        parts: list[RenderableType] = [rows]
        if hidden:
            parts.append(Text(f"  … {hidden} more stages that need no attention", style="dim"))
        parts.append(self._bar())
        return Group(*parts)

    def _row(self, stage: Stage) -> tuple[Text, ...]:
        symbol, style = LOOKS.get(stage.status, ("?", ""))
        said = stage.error if stage.status == StageStatus.STAGE_FAILED else stage.last_line
        if stage.status in {StageStatus.STAGE_PENDING, StageStatus.STAGE_RETRYING, StageStatus.STAGE_SKIPPED}:
            said = stage.message or said
        done = stage.worker_count if stage.status == StageStatus.STAGE_COMPLETED else stage.workers_done
        return (
            Text(symbol, style=style),
            Text(stage.name),
            Text(status_word(stage.status).lower(), style=style),
            Text(str(stage.attempt) if stage.attempt > 1 else ""),
            Text(f"{done}/{stage.worker_count}"),
            Text(duration(stage.seconds()) if stage.started else ""),
            Text(said, style="dim"),
        )

    def _bar(self) -> RenderableType:
        run = self._run
        ended = sum(stage.status in ENDED for stage in run.stages.values())
        line = Table.grid(padding=(0, 1))
        line.add_column(width=min(40, max(10, self._console.width // 3)))
        line.add_column(no_wrap=True)
        style = {StageStatus.STAGE_FAILED: "red", StageStatus.STAGE_CANCELLED: "yellow"}.get(
            run.final or StageStatus.STAGE_PENDING, "green"
        )
        bar = ProgressBar(total=100, completed=run.percentage, complete_style=style, finished_style=style)
        elapsed = duration((run.ended or time.time()) - run.started)
        line.add_row(bar, Text(f"{run.percentage}%  {ended} of {len(run.stages)} stages  {elapsed}"))
        return line
