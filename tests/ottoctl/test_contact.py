"""A break is told once, however many streams it cuts and however late each notices."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from otto_runtime import calls, handing
from ottoctl import exit_codes, words
from ottoctl.client import made_id
from ottoctl.contact import Contact
from ottoctl.words import LostError, ServiceError, in_words


def status(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


class Stream:
    """A call that says one thing, and breaks or ends when it is told to."""

    def __init__(self, ends: asyncio.Event, error: grpc.aio.AioRpcError | None) -> None:
        self._ends, self._error = ends, error

    async def initial_metadata(self) -> None:
        pass

    def done(self) -> bool:
        return False

    def cancel(self) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[str]:
        yield "news"
        await self._ends.wait()
        if self._error:
            raise self._error


async def test_a_break_that_a_second_stream_notices_late_is_not_told_again() -> None:
    """Both were cut at once; the second one notices when the first is back. A later break of it is told."""
    told: list[str] = []
    contact = Contact("there:1", told.append, 5)
    breaks = [[asyncio.Event() for _ in range(3)] for _ in range(2)]
    opened = [0, 0]
    broken = status(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    async def use(number: int) -> None:
        def attach() -> Any:
            opened[number] += 1
            last = opened[number] == 3
            return Stream(breaks[number][opened[number] - 1], None if last else broken)

        async for _ in contact.lasting(attach, lambda _: False, ends_with_ok=True):
            pass

    async def until(number: int, count: int) -> None:
        async with asyncio.timeout(20):
            while opened[number] < count:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as both:
        for number in range(2):
            both.create_task(use(number), name=f"stream {number}")
        await until(0, 1)
        breaks[0][0].set()
        await until(0, 2)
        breaks[1][0].set()
        await until(1, 2)
        assert [words.split(" to ")[0] for words in told] == ["lost the connection", "connected again"]
        breaks[1][1].set()
        await until(1, 3)
        assert [words.split(" to ")[0] for words in told] == ["lost the connection", "connected again"] * 2
        for event in [*breaks[0], *breaks[1]]:
            event.set()


@pytest.mark.parametrize(
    ("code", "details", "words", "exit_code"),
    [
        ("UNAVAILABLE", "the memory of runs can't be written: No space left on device", "No space left", exit_codes.SERVICE_ERROR),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: Connection refused", "Is it running?", exit_codes.UNREACHABLE),
        ("UNAVAILABLE", "DNS resolution failed for there:1", "can't be resolved", exit_codes.UNREACHABLE),
        ("NOT_FOUND", "NOT_FOUND: no pipeline 'x'", "NOT_FOUND: no pipeline 'x'", exit_codes.SERVICE_ERROR),
        ("NOT_FOUND", "no worker", "NOT_FOUND: no worker", exit_codes.SERVICE_ERROR),
    ],
)
async def test_errors_in_words(code: str, details: str, words: str, exit_code: int) -> None:
    """What a reachable service says is its answer, not a lack of contact; a code stands there once."""
    error = in_words(status(grpc.StatusCode[code], details), "there:1")
    assert words in str(error)
    assert str(error).count(code) <= 1
    assert error.exit_code == exit_code


async def test_a_service_that_can_t_do_it_now_is_believed_at_once() -> None:
    """A full disk at the first call is no lost connection."""
    told: list[str] = []
    ends = asyncio.Event()
    ends.set()
    full = status(grpc.StatusCode.UNAVAILABLE, "No space left on device")

    class Refusing(Stream):
        async def initial_metadata(self) -> None:
            raise full

    with pytest.raises(ServiceError, match="No space left"):
        async for _ in Contact("there:1", told.append, 60).lasting(lambda: Refusing(ends, None), lambda _: True):
            pass
    assert told == []


class Refused(Stream):
    """A call that a service takes, and then refuses."""

    async def __aiter__(self) -> AsyncIterator[str]:
        if self._error:
            raise self._error
        yield "news"


async def test_a_refusal_is_told_once_and_patience_ends() -> None:
    """What opens a stream is no contact if it is refused right behind that, or a while later, however often: told once, then given up."""
    told: list[str] = []
    tries = 0
    full = status(grpc.StatusCode.UNAVAILABLE, "the memory of runs was taken away")

    def attach() -> Any:
        nonlocal tries
        tries += 1
        return Stream(ended, status(grpc.StatusCode.UNAVAILABLE, "Socket closed")) if tries == 1 else Refused(ended, full)

    ended = asyncio.Event()
    ended.set()
    with pytest.raises(LostError, match="was taken away"):
        async for _ in Contact("there:1", told.append, 2).lasting(attach, lambda _: False):
            pass
    assert [words.split(" (")[0] for words in told] == ["lost the connection to there:1"]
    assert tries > 3

    with pytest.raises(ServiceError, match="can't do that at the moment: the memory of runs was taken away"):
        async for _ in Contact("there:1", told.append, 60).lasting(lambda: Refused(ended, full), lambda _: False):
            pass


def test_the_words_of_a_stop_are_the_services_own() -> None:
    """The command line knows them without the services' code."""
    assert calls._STOPPING.startswith(words._STOPPING)
    assert words._NOT_ACTED == handing.NOT_ACTED


async def test_a_stream_that_was_open_is_lost_when_its_service_stops() -> None:
    """That is no refusal, whatever its words are."""
    told: list[str] = []
    ended = asyncio.Event()
    ended.set()
    stopping = status(grpc.StatusCode.UNAVAILABLE, "the service is stopping; repeat the call")
    calls = iter([Stream(ended, stopping), Stream(ended, None)])
    async for _ in Contact("there:1", told.append, 60).lasting(lambda: next(calls), lambda _: False, ends_with_ok=True):
        pass
    assert [line.split(" (")[0] for line in told] == ["lost the connection to there:1", "connected again"]


async def test_what_a_service_that_goes_has_not_done_is_asked_again() -> None:
    """Also at the first call: it says so itself."""
    not_acted = grpc.aio.Metadata(("otto-not-acted", "1"))
    going = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), not_acted, "the service is stopping; repeat the call")
    ended = asyncio.Event()
    ended.set()
    calls = iter([Refused(ended, going), Refused(ended, going), Refused(ended, None)])
    told: list[str] = []
    words: AsyncIterator[str] = Contact("there:1", told.append, 60).lasting(lambda: next(calls), lambda _: True)
    heard = [word async for word in words]
    assert heard == ["news"]
    assert [line.split(" (")[0] for line in told] == ["lost the connection to there:1", "connected again"]


@pytest.mark.parametrize("old", ["p", "p.rerun-0123abcd", "long-" * 50, "긴" * 84, ".rerun-x"])
def test_the_id_of_a_rerun_is_a_new_one_and_no_longer_than_it_may_be(old: str) -> None:
    """It begins as the old one, for the tenth time too, and what had room before has room again."""
    made = {made_id(old) for _ in range(10)}
    assert len(made) == 10
    for new in made:
        assert len(new.encode()) <= max(64, len(old.encode()))
        assert new.count(".rerun-") == 1 or old.startswith(".rerun-")
        assert len(made_id(new)) == len(new)
