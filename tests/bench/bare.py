"""The floor: a grpc.aio server with nothing of ours that streams messages it was given, in a process of its own."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from ottoscaler.v1.log_pb2 import LogBatch, LogEntry

METHOD = "/bench.Bare/Stream"
KINDS: dict[str, type[Any]] = {"single": LogEntry, "batch": LogBatch}


def lines(messages: Sequence[Any]) -> int:
    """How many lines the messages hold."""
    return sum(len(m.entries) if isinstance(m, LogBatch) else 1 for m in messages)


@asynccontextmanager
async def streaming(kind: str, messages: Sequence[Any]) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """A bare server that has these messages; gives what streams all of them to one reader and says how many lines a second."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.bare", kind, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for message in messages:
            data = message.SerializeToString()
            process.stdin.write(len(data).to_bytes(4, "big") + data)
            await process.stdin.drain()
        process.stdin.write_eof()
        port = int(await process.stdout.readline())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]) as channel:
            await channel.channel_ready()
            call = channel.unary_stream(METHOD, request_serializer=bytes, response_deserializer=KINDS[kind].FromString)

            async def rate() -> float:
                received = []
                begun = time.perf_counter()
                async for message in call(b""):
                    received.append(message)
                seconds = time.perf_counter() - begun
                if len(received) != len(messages):
                    raise RuntimeError(f"the bare stream gave {len(received)} of {len(messages)} messages")
                return lines(received) / seconds

            yield rate
    finally:
        process.terminate()
        await process.wait()


async def _serve(kind: str) -> None:
    message_of, messages = KINDS[kind].FromString, []
    while header := sys.stdin.buffer.read(4):
        messages.append(message_of(sys.stdin.buffer.read(int.from_bytes(header, "big"))))

    async def stream(_: bytes, __: Any) -> AsyncIterator[Any]:
        for message in messages:
            yield message

    handler = grpc.unary_stream_rpc_method_handler(stream, request_deserializer=bytes, response_serializer=KINDS[kind].SerializeToString)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Bare", {"Stream": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
