"""A port of this machine that leads to a Service of the cluster, which may be reached from the cluster's own network namespace only."""

import asyncio
import contextlib
import json
import socket
import sys
from pathlib import Path

from testcluster.kind import Cluster
from testcluster.steps import ClusterError

LARGEST_READ = 65_536
INTERNAL = '{.status.addresses[?(@.type=="InternalIP")].address}'


def forward(cluster: Cluster, port: int, namespace: str, selector: str) -> None:
    """Turn this process into one that hands each connection to 127.0.0.1:`port` on to the node port of a Service, until it is ended.

    Raises:
        ClusterError: Somebody listens there, or there is no such Service with a node port.
    """
    services = json.loads(cluster.run("kubectl", "get", "services", "--namespace", namespace, "--selector", selector, "--output=json"))
    ports = [number["nodePort"] for service in services["items"] for number in service["spec"]["ports"] if "nodePort" in number]
    if not ports:
        raise ClusterError(f"no Service {selector} with a node port is in namespace {namespace}")
    address = cluster.run("kubectl", "get", "node", cluster.nodes()[0], f"--output=jsonpath={INTERNAL}")
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        raise ClusterError(f"127.0.0.1:{port} can't be listened on: {error.strerror}") from error
    listening.listen()
    listening.set_inheritable(True)  # it stays in the network that it was made in, wherever its process goes
    print(
        f"127.0.0.1:{port} leads to {address}:{ports[0]} of the cluster {cluster.place.name}; Ctrl-C ends it", file=sys.stderr, flush=True
    )
    tools = f"PYTHONPATH={Path(__file__).resolve().parents[1]}"
    cluster.become([tools, sys.executable, "-m", __name__, str(listening.fileno()), address, str(ports[0])])


async def serve(descriptor: int, address: str, port: int) -> None:
    """Hand on every connection to a listening socket; one that can't be made is closed."""

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            there, to_there = await asyncio.open_connection(address, port)
            with contextlib.closing(to_there):
                await asyncio.gather(_copy(reader, to_there), _copy(there, writer))

    async with await asyncio.start_server(hand_on, sock=socket.socket(fileno=descriptor)) as server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(LARGEST_READ):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
