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
IGNORED = ("!", "yellow")
"""Of a stage that failed, which counts as completed."""
CLEAR = "\x1b[H\x1b[J"
"""To the top, and everything below is gone. Erasing the whole screen would move it to what can be scrolled back to, in many terminals."""
OTHER_CELLS = 44
"""Columns that symbol, state, attempt, workers and time take, and a last line at the least."""
DETAILS_CELLS = 66
"""Columns of a terminal from which on states and last lines are shown; below it names and times are."""
RESERVED_LINES = 4
"""Lines of the picture beside the stages: header, what is hidden, the bar, and the line where the cursor is."""
SHORTEST_BAR = 6
UNIMPORTANT = 3
IMPORTANCE = {StageStatus.STAGE_FAILED: 0, StageStatus.STAGE_RUNNING: 1, StageStatus.STAGE_RETRYING: 1, StageStatus.STAGE_PENDING: 2}


class LiveView:
    """Draws a Run a few times a second while it is entered; the last picture stays."""

    def __init__(self, run: Run, console: Console) -> None:
        self._run = run
        self._console = console
        self._size = console.size
        self._over = False
        self._live = Live(get_renderable=self.picture, console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        # The last picture may be higher than the terminal: it is not drawn over any more.
        self._over = self._run.final is not None
        self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line above the picture; a command in it stays in one piece."""
        self._console.print(Text(text, style="yellow"), soft_wrap=True)

    def picture(self) -> RenderableType:
        """The run as it stands, no larger than the terminal is at this moment."""
        width, height = self._console.size
        if self._size != self._console.size:
            # The terminal has broken the old lines anew, so that nobody knows how many they are: begin at the top.
            self._size = self._console.size
            self._console.file.write(CLEAR)
        stages, hidden = chosen(list(self._run.stages.values()), len(self._run.stages) if self._over else max(1, height - RESERVED_LINES))
        details = width >= DETAILS_CELLS
        retried = any(stage.attempt > 1 for stage in stages)
        several = details or any(stage.worker_count > 1 for stage in stages)
        rows = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=True, show_header=True, header_style="dim")
        rows.add_column("", width=1, no_wrap=True)
        rows.add_column(
            "stage",
            no_wrap=True,
            max_width=max(12, min(32, width - OTHER_CELLS)) if details else None,
            ratio=None if details else 1,
            overflow="ellipsis",
        )
        if details:
            rows.add_column("state", no_wrap=True)
        if retried:
            rows.add_column("try", justify="right", no_wrap=True)
        if several:
            rows.add_column("done" if details else "", justify="right", no_wrap=True)
        rows.add_column("time", justify="right", no_wrap=True)
        if details:
            rows.add_column("last line", no_wrap=True, ratio=1, overflow="ellipsis")
        for stage in stages:
            rows.add_row(*self._row(stage, details=details, retried=retried, several=several))
        parts: list[RenderableType] = [rows]
        if hidden:
            parts.append(Text(f"  … {len(hidden)} more: {_counted(hidden)}", style="dim", no_wrap=True, overflow="ellipsis"))
        parts.append(self._bar(width))
        return Group(*parts)

    def _row(self, stage: Stage, *, details: bool, retried: bool, several: bool) -> list[Text]:
        symbol, style = IGNORED if stage.ignored else LOOKS.get(stage.status, ("?", ""))
        done = stage.worker_count if stage.status == StageStatus.STAGE_COMPLETED else stage.workers_done
        cells = [Text(symbol, style=style), Text(stage.name)]
        if details:
            cells.append(Text(status_word(stage.status).lower(), style=style))
        if retried:
            cells.append(Text(str(stage.attempt) if stage.attempt > 1 else ""))
        if several:
            cells.append(Text(f"{done}/{stage.worker_count}" if details or stage.worker_count > 1 else ""))
        cells.append(Text(duration(stage.seconds()) if stage.started or stage.waits_since else ""))
        if details:
            said = stage.error if stage.status == StageStatus.STAGE_FAILED else stage.last_line
            if stage.ignored or stage.status in {StageStatus.STAGE_PENDING, StageStatus.STAGE_RETRYING, StageStatus.STAGE_SKIPPED}:
                said = stage.message or said
            cells.append(Text(said, style="dim"))
        return cells

    def _bar(self, width: int) -> RenderableType:
        run = self._run
        ended = sum(stage.status in ENDED for stage in run.stages.values())
        elapsed = duration((run.ended or time.time()) - run.started)
        words = f"{run.percentage}%  {ended} of {len(run.stages)} stages  {elapsed}"
        room = min(40, width - len(words) - 2)
        if room < SHORTEST_BAR:
            return Text(words, no_wrap=True, overflow="ellipsis")
        line = Table.grid(padding=(0, 1))
        line.add_column(width=room)
        line.add_column(no_wrap=True)
        style = {StageStatus.STAGE_FAILED: "red", StageStatus.STAGE_CANCELLED: "yellow"}.get(
            run.final or StageStatus.STAGE_PENDING, "green"
        )
        line.add_row(ProgressBar(total=100, completed=run.percentage, complete_style=style, finished_style=style), Text(words))
        return line


def chosen(stages: list[Stage], room: int) -> tuple[list[Stage], list[Stage]]:
    """The stages that are shown and those that are not, each in their order, if only `room` lines are there.

    Failed ones come first, then running ones, then the next to start, then the last that ended.
    """
    if len(stages) <= room:
        return stages, []

    def urgency(place: int) -> tuple[int, int]:
        rank = IMPORTANCE.get(stages[place].status, UNIMPORTANT)
        return rank, -place if rank == UNIMPORTANT else place

    shown = set(sorted(range(len(stages)), key=urgency)[: max(1, room - 1)])
    return [s for i, s in enumerate(stages) if i in shown], [s for i, s in enumerate(stages) if i not in shown]


def _counted(stages: list[Stage]) -> str:
    counts: dict[str, int] = {}
    for stage in stages:
        word = status_word(stage.status).lower()
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{count} {word}" for word, count in counts.items())
