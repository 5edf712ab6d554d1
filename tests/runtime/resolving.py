"""Run in namespaces of its own: dials a Service by its short name, as a pod does, and prints which names its name server was asked for."""

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import otto_runtime.launch  # noqa: F401  what a service has imported before it imports gRPC

# isort: split
import grpc.aio

KNOWN = "otto-scaler.team.svc.cluster.local"
SEARCH = "team.svc.cluster.local svc.cluster.local cluster.local"
A, INTERNET = b"\x00\x01", b"\x00\x01"


def answer(query: bytes, asked: set[str]) -> bytes | None:
    """As CoreDNS does that reaches no other name server: an address for what it knows, NXDOMAIN for others of the cluster, else nothing."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += length + 1
    question, kind, name = query[12 : at + 5], query[at + 1 : at + 3], ".".join(labels)
    asked.add(name)
    if not name.endswith("cluster.local"):
        return None
    found = name == KNOWN
    answers = b"\xc0\x0c" + A + INTERNET + (5).to_bytes(4) + (4).to_bytes(2) + socket.inet_aton("127.0.0.1") if found and kind == A else b""
    flags = 0x8580 if found else 0x8583
    counts = b"".join(count.to_bytes(2) for count in (1, bool(answers), 0, 0))
    return query[:2] + flags.to_bytes(2) + counts + question + answers


def serve(server: socket.socket, asked: set[str]) -> None:
    """Answers for ever."""
    while True:
        query, client = server.recvfrom(4096)
        if (told := answer(query, asked)) is not None:
            server.sendto(told, client)


async def dial() -> None:
    """Connects by the short name."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"otto-scaler:{port}") as channel:
        await channel.channel_ready()
    await server.stop(None)


def main() -> None:
    """Prints the names, as JSON."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        settings = Path(directory, "resolv.conf")
        settings.write_text(f"search {SEARCH}\nnameserver 127.0.0.53\noptions ndots:5\n")
        subprocess.run(["mount", "--bind", str(settings), "/etc/resolv.conf"], check=True)
        server.bind(("127.0.0.53", 53))
        asked: set[str] = set()
        threading.Thread(target=serve, args=(server, asked), daemon=True).start()
        asyncio.run(dial())
        subprocess.run(["umount", "/etc/resolv.conf"], check=True)
        json.dump(sorted(asked), sys.stdout)


if __name__ == "__main__":
    main()
