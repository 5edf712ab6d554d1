"""What clients get to see of errors: their own words where they are meant for them, otherwise an id, never an exception's text."""

import asyncio
import logging
import re
import string
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest

from otto_runtime.errors import MAX_DETAILS_BYTES, shortened, status_of
from otto_runtime.tasks import single

from .conftest import Serve

PRINTABLE = string.ascii_letters + string.digits + string.punctuation.replace("%", "") + " "
SECRET = "the-database-password"


class TrialError(Exception):
    """The root of a service's error tree."""


class NoSuchThingError(TrialError):
    """What a client may see."""

    grpc_status = "NOT_FOUND"


class NoStatusError(TrialError):
    """A public error that forgot its status."""


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(10):
            await call
    return caught.value


async def read_all(call: Any) -> list[bytes]:
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def in_a_group(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        OSError(5, SECRET),
        TimeoutError(SECRET),
        SystemExit(SECRET),
        asyncio.CancelledError(SECRET),
        ExceptionGroup(SECRET, [ValueError(SECRET), KeyError(SECRET)]),
        BaseExceptionGroup(SECRET, [SystemExit(SECRET), KeyError(SECRET)]),
        ExceptionGroup(SECRET, [NoSuchThingError("no such thing"), KeyError(SECRET)]),
        UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", ["unary", "generator", "writer"])
async def test_an_unexpected_error_is_internal_with_an_id(
    serve: Serve, caplog: pytest.LogCaptureFixture, error: BaseException, kind: str
) -> None:
    """Whatever a handler raises, also after it has sent messages: INTERNAL and an id that our log has with the traceback, nothing else."""

    async def unary(request: bytes, context: Any) -> bytes:
        raise error

    async def generator(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise error

    async def writer(request: bytes, context: Any) -> None:
        await context.write(b"first")
        raise error

    handlers = {"unary": unary} if kind == "unary" else {"stream": generator if kind == "generator" else writer}
    async with serve(**handlers, public_errors=(TrialError,)) as trial:
        if kind == "unary":
            seen = await failure(trial.unary()(b""))
        else:
            call = trial.stream()(b"")
            assert await call.read() == b"first"
            seen = await failure(call.read())
        assert seen.code() is grpc.StatusCode.INTERNAL
        found = re.fullmatch(r"internal error; the service's log has it under id ([0-9a-f]{12})", seen.details() or "")
        assert found
        assert SECRET not in str(seen.trailing_metadata()) + str(seen.initial_metadata()) + (seen.debug_error_string() or "")
        records = [r for r in caplog.records if r.getMessage() == "runtime.call_failed"]
        assert [(getattr(r, "error_id", ""), getattr(r, "method", "")) for r in records] == [
            (found[1], "test.Trial/unary" if kind == "unary" else "test.Trial/stream")
        ]
        assert records[0].exc_info
        assert not [r for r in caplog.records if r.name.startswith("grpc") and r.levelno >= logging.WARNING]


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in nested TaskGroups"])
@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
async def test_an_error_meant_for_the_client_arrives_in_its_words(serve: Serve, wrapped: bool, streaming: bool) -> None:
    """The status of the class and the text, also out of TaskGroups, in any language."""
    error = NoSuchThingError("no thing called 김치찌개\nsecond line %41")

    async def fail() -> None:
        if wrapped:
            async with asyncio.TaskGroup() as group:
                group.create_task(in_a_group(error))
        raise error

    async def unary(request: bytes, context: Any) -> bytes:
        await fail()
        return b""

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await fail()
        yield b""

    async with serve(unary=unary, stream=stream, public_errors=(TrialError,)) as trial:
        seen = await failure(trial.stream()(b"").read() if streaming else trial.unary()(b""))
        assert (seen.code(), seen.details()) == (grpc.StatusCode.NOT_FOUND, str(error))


async def test_abort_in_a_task_group_keeps_its_status(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """`context.abort` inside a TaskGroup arrives as what it said; an error beside it is logged, not told."""

    async def unary(request: bytes, context: Any) -> bytes:
        async def beside() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError(SECRET)

        async with asyncio.TaskGroup() as group:
            group.create_task(beside())
            await asyncio.sleep(0)
            group.create_task(context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now"))
        return b""

    async with serve(unary=unary) as trial:
        seen = await failure(trial.unary()(b""))
        assert (seen.code(), seen.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not now")
    assert "runtime.call_failed" in caplog.messages
    assert not [r for r in caplog.records if r.name.startswith("grpc") and r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "text",
    ["x" * 100_000, "한" * 100_000, "lone surrogate \udcff here", "line\r\nbreak\0and \x1b[31mcontrol", ""],
    ids=["long", "long Korean", "surrogate", "control characters", "empty"],
)
async def test_details_always_arrive(serve: Serve, text: str) -> None:
    """Details of any length and content reach the client, cut at a character where they are too long for a header."""

    async def unary(request: bytes, context: Any) -> bytes:
        raise NoSuchThingError(text)

    async with serve(unary=unary, public_errors=(TrialError,)) as trial:
        seen = await failure(trial.unary()(b""))
        assert (seen.code(), seen.details()) == (grpc.StatusCode.NOT_FOUND, shortened(text))
        details = seen.details() or ""
        assert len(quote(details, safe=PRINTABLE)) <= MAX_DETAILS_BYTES
        assert details == text.replace("\udcff", "?") or (details.endswith("…") and text.startswith(details[:-1]))


def refuse(data: bytes) -> bytes:
    raise ValueError(SECRET)


@pytest.mark.parametrize("name", ["unary", "stream", "collect", "bidi"])
async def test_a_request_that_cannot_be_read_is_invalid(serve: Serve, name: str) -> None:
    """Bytes that are not the method's message are INVALID_ARGUMENT, for every kind of method; the parser's words stay with us."""

    async def one(request: Any, context: Any) -> bytes:
        if name == "collect":
            async for _ in request:
                pass
        return b"not reached"

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        if name == "bidi":
            async for _ in request:
                pass
        yield b"not reached"

    async with serve(**{name: (one if name in {"unary", "collect"} else many, refuse)}) as trial:
        if name == "unary":
            call = trial.unary()(b"x")
        elif name == "stream":
            call = trial.stream()(b"x").read()
        elif name == "collect":
            call = trial.collect()(iter([b"x"]))
        else:
            bidi = trial.bidi()()
            await bidi.write(b"x")
            call = bidi.read()
        seen = await failure(call)
        assert seen.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert SECRET not in str(seen)


@pytest.mark.parametrize("name", ["unary", "stream"])
async def test_an_answer_that_cannot_be_written_is_internal(serve: Serve, name: str) -> None:
    """What a serializer raises is an internal error, not a text for clients."""

    async def unary(request: Any, context: Any) -> Any:
        return object()

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        yield object()

    async with serve(**{name: (unary if name == "unary" else stream, None, refuse)}) as trial:
        seen = await failure(trial.unary()(b"") if name == "unary" else trial.stream()(b"").read())
        assert seen.code() is grpc.StatusCode.INTERNAL
        assert SECRET not in str(seen)


async def test_an_unknown_method_stays_unimplemented(serve: Serve) -> None:
    """A method that nobody serves is UNIMPLEMENTED, as gRPC says it."""
    async with serve() as trial:
        assert (await failure(trial.unary("nothing")(b""))).code() is grpc.StatusCode.UNIMPLEMENTED


def test_groups_of_public_errors_are_public() -> None:
    """Several problems found at once are all told, under the first one's status; one that is not public hides them all."""
    both = ExceptionGroup("", [NoSuchThingError("a"), ExceptionGroup("", [NoSuchThingError("b"), NoSuchThingError("a")])])
    status = status_of(both, (TrialError,))
    assert (status.code, status.details, status.error_id) == (grpc.StatusCode.NOT_FOUND, "a\nb", "")
    assert status_of(NoStatusError("words"), (TrialError,)).code is grpc.StatusCode.INTERNAL
    assert single(ExceptionGroup("", [ExceptionGroup("", [KeyError("k")])])).args == ("k",)


def test_ids_of_errors_differ() -> None:
    """Each unexpected error has its own id."""
    assert len({status_of(ValueError(), ()).error_id for _ in range(100)}) == 100
