"""What clients ask of a run: waits until it is carried out, refused, or nobody waits for it any more."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from otto_executor.run import Run

T = TypeVar("T")
Command = Callable[[Run, float], T]
Answer = Callable[[], None]


class Commands:
    """Those of one run, in the order in which they came. Each is answered once: with what it gives, or with an error."""

    def __init__(self) -> None:
        """Nothing is asked yet."""
        self._waiting: list[tuple[Command[Any], asyncio.Future[Any]]] = []
        self._news = asyncio.Event()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._still_wanted())

    def ask(self, command: Command[T]) -> "asyncio.Future[T]":
        """What the command gives once it counts, or what it raises or is refused with."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        self._news.set()
        return future

    def carry_out(self, run: Run, now: float) -> list[Answer]:
        """Has all that wait change the run. Returns what answers them, to be called when that counts; until then they go on waiting."""
        answers: list[Answer] = []
        for command, future in self._still_wanted():
            try:
                result = command(run, now)
            except Exception as error:  # whatever it is belongs to the one who asked
                answers.append(_answer(future, error=error))
            else:
                answers.append(_answer(future, result=result))
        return answers

    def refuse(self, error: Callable[[], Exception]) -> None:
        """All that wait get an error, each its own."""
        for _, future in self._still_wanted():
            future.set_exception(error())

    async def come(self, seconds: float) -> None:
        """Waits until something is asked, at most `seconds`."""
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def _still_wanted(self) -> list[tuple[Command[Any], "asyncio.Future[Any]"]]:
        self._waiting = [(command, future) for command, future in self._waiting if not future.done()]
        return self._waiting


def _answer(future: "asyncio.Future[Any]", *, result: object = None, error: Exception | None = None) -> Answer:
    def answer() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    return answer
