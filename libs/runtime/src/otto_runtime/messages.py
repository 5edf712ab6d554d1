"""Messages on their way in and out of handlers. grpc.aio would tell clients the text of what a (de)serializer raises: ours does not."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc.aio

from otto_runtime.errors import MalformedMessage

Transform = Callable[[Any], Any]


def reading(deserializer: Transform | None) -> Transform | None:
    """A deserializer that raises MalformedMessage instead of what the parser raises."""
    if deserializer is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserializer(data)
        except Exception as error:
            raise MalformedMessage(
                "the request is not the message that this method takes; was it made from another version of the protos?"
            ) from error

    return read


def counting(serializer: Transform | None, counter: Any, told: Callable[[], None]) -> Transform:
    """A serializer that counts and tells what it has written."""

    def write(message: Any) -> Any:
        data = message if serializer is None else serializer(message)
        counter.inc()
        told()
        return data

    return write


async def write_all(messages: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Writes what a handler yields. A cancellation reaches it as CancelledError, also when it waits in `yield` for a slow reader."""
    try:
        async for message in messages:
            try:
                await context.write(message)
            except (asyncio.CancelledError, grpc.aio.InternalError):
                if inspect.isasyncgen(messages):
                    with suppress(StopAsyncIteration, asyncio.CancelledError):
                        await messages.athrow(asyncio.CancelledError())
                raise
    finally:
        if inspect.isasyncgen(messages):
            await messages.aclose()
