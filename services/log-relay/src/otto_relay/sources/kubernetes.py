"""Pods' logs through the log API of Kubernetes: every container of a worker's pod, followed from its start, from any relay at any time.

Init containers come first, one after another; then the worker's own container and those beside it, together. Each connection that breaks
goes on behind the last line that was had; only what the node has rotated away before it was read is lost, and is told. Stdout and stderr
are asked for apart where the server knows that question, until it refuses.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from otto_kubekit.errors import ForbiddenError, KubeError, NotFoundError
from otto_kubekit.kinds import SECRETS
from otto_kubekit.objects import Container, Pod
from otto_relay.errors import SourceError, SourceLostError
from otto_relay.sources.kubernetes_lane import ApartRefusedError, Lane, waited
from otto_relay.sources.kubernetes_lines import Entry
from otto_relay.sources.kubernetes_pod import WORKER, WorkerPod, begun, fetched, in_order, secret_keys, url_passwords
from otto_relay.sources.kubernetes_position import MOST_LANES, Position, lane, mark_of
from otto_relay.sources.protocol import Ending, Line, Split
from otto_runtime.tasks import Backoff, cancelled, leaves

if TYPE_CHECKING:
    from otto_kubekit.client import Client

log = logging.getLogger(__name__)

_BATCHES = 4
"""Batches of a worker that wait to be stored, each of at most what one read of a connection gave; then its connections wait."""
_SECRET_SECONDS = 30.0
"""How long a secret that was read serves other workers too."""
_MOST_REMEMBERED = 1000
_ROTATED = "lines may be missing here: this log was rotated while it was not read"
_MERGED = "lines may be missing here: this cluster does not tell stdout and stderr apart any more"
_KNOWS_STREAMS = (1, 32)
"""The first version of Kubernetes that knows `stream`; an older one ignores the question and would send every line twice."""


class _Batch(NamedTuple):
    """Lines of a lane, or with no entries the end of a container."""

    container: int
    stderr: bool
    entries: list[Entry]


class KubernetesSource:
    """A LogSource over the pods of one namespace, which are named as their workers."""

    def __init__(self, client: "Client", longest_unsplit: int) -> None:
        """`longest_unsplit` is the length in bytes up to which a line is not split."""
        self._client = client
        self._longest = longest_unsplit
        self._apart: bool | None = None
        """Whether the server gives stdout and stderr apart, as far as is known."""
        self._pods: dict[str, Pod] = {}
        """Those that were just seen and will be read in a moment."""
        self._secrets: dict[str, tuple[float, dict[str, str]]] = {}
        self._reading_secrets = asyncio.Lock()
        self._told_forbidden = False

    async def available(self, worker_id: str, ended: Ending) -> bool:
        """See LogSource."""
        backoff = Backoff(0.05, 1.0)
        while True:
            # Asked in this order, so that a container that began before the end is not missed.
            finished = ended.is_set()
            try:
                pod = await fetched(self._client, worker_id)
            except SourceLostError:
                pass
            else:
                if begun(pod):
                    self._remember(pod)
                    return True
            if finished:
                return False
            await waited(ended, backoff.next_delay())

    def _remember(self, pod: Pod) -> None:
        if len(self._pods) >= _MOST_REMEMBERED:
            self._pods.clear()
        self._pods[pod.metadata.name] = pod

    async def secrets(self, worker_id: str) -> Sequence[str]:
        """See LogSource. Secrets that may not be read, or are gone, are left out."""
        pod = self._pods.get(worker_id) or await fetched(self._client, worker_id)
        self._remember(pod)
        found = dict.fromkeys(url_passwords(pod))
        for name, keys in secret_keys(pod).items():
            values = await self._secret(name)
            found.update(dict.fromkeys(value for key, value in values.items() if key in keys or "" in keys))
        return tuple(found)

    async def _secret(self, name: str) -> dict[str, str]:
        async with self._reading_secrets:
            now = time.monotonic()
            self._secrets = {known: entry for known, entry in self._secrets.items() if entry[0] > now}
            if name not in self._secrets:
                self._secrets[name] = now + _SECRET_SECONDS, await self._asked_secret(name)
            return self._secrets[name][1]

    async def _asked_secret(self, name: str) -> dict[str, str]:
        try:
            secret = await self._client.get(SECRETS, name)
        except NotFoundError:
            return {}
        except ForbiddenError as error:
            if not self._told_forbidden:
                self._told_forbidden = True
                log.warning("relay.secrets.forbidden", extra={"reason": error.message})
            return {}
        except KubeError as error:
            raise SourceError(f"secret {name} can't be read: {type(error).__name__}") from error
        # What is no UTF-8 can't be the value of a variable as it is.
        return {key: value.decode("utf-8", "replace") for key, value in secret.data.items()}

    async def lines(self, worker_id: str, position: bytes, ended: Ending, split: Split) -> AsyncGenerator[list[Line], None]:
        """See LogSource."""
        pod = self._pods.pop(worker_id, None) or await fetched(self._client, worker_id)
        unsure: frozenset[int] = frozenset()
        while True:
            reading = _Reading(self._client, pod, position, await self._asks_apart(), split, self._longest, unsure)
            try:
                async with aclosing(reading.lines(ended)) as batches:
                    async for batch in batches:
                        yield batch
            except ApartRefusedError:
                log.info("relay.source.merged")
                self._apart = False
                position, unsure = reading.merged()
                continue
            return

    async def _asks_apart(self) -> bool:
        if self._apart is None:
            try:
                self._apart = await self._client.server_version() >= _KNOWS_STREAMS
            except KubeError as error:
                raise SourceError(f"the version of the API server is not known: {error}") from error
        return self._apart


class _Reading:
    """All containers of one pod, read once from a position to their ends."""

    def __init__(
        self, client: "Client", pod: Pod, position: bytes, apart: bool, split: Split, longest: int, unsure: frozenset[int]
    ) -> None:
        """`unsure` are containers before whose first line some may be missing."""
        self._client = client
        self._unsure = set(unsure)
        self._worker = WorkerPod(client, pod)
        self._split = split
        self._longest = longest
        self._before, self._together = in_order(pod)
        mark = mark_of(pod.metadata.uid)
        few = 2 * (len(self._together) + 1) <= MOST_LANES
        self._position = Position(mark, apart=apart and few)
        if position:
            try:
                self._position = Position.decoded(position)
            except ValueError as error:
                raise SourceLostError(f"{error}; another kind of source has read this worker") from error
            if self._position.mark != mark:
                raise SourceLostError(f"pod {pod.metadata.name} is gone; another one has its name")
        self._batches: asyncio.Queue[_Batch | Exception | None] = asyncio.Queue(_BATCHES)
        self._lost: list[str] = []

    def merged(self) -> tuple[bytes, frozenset[int]]:
        """The position behind all that was given, for reading on without telling streams apart; see `Position.merged`."""
        position, unsure = self._position.merged()
        return position.encoded(), unsure

    async def lines(self, ended: Ending) -> AsyncGenerator[list[Line], None]:
        """The lines behind the position. Raises as LogSource says, and ApartRefusedError."""
        reading = asyncio.create_task(self._read(ended), name=f"read {self._worker.name}")
        names = [container.name for container in (*self._before, *self._together)]
        try:
            while True:
                batch = await self._batches.get()
                if batch is None:
                    return
                if isinstance(batch, Exception):
                    raise next(leaves(batch))
                if not batch.entries:
                    self._position.end(batch.container)
                    continue
                name = names[batch.container]
                label = "" if name == WORKER else name
                number = lane(batch.container, stderr=batch.stderr)
                moved = self._position.moved
                lines = [
                    Line(time_ns, batch.stderr, text, moved(number, place), label, _ROTATED if missing else "")
                    for time_ns, text, place, missing in batch.entries
                ]
                if batch.container in self._unsure:
                    self._unsure.remove(batch.container)
                    lines[0] = lines[0]._replace(notice=lines[0].notice or _MERGED)
                yield lines
        finally:
            await cancelled(reading)

    async def _read(self, ended: Ending) -> None:
        """Puts everything that comes into the queue: batches, then None or what went wrong."""
        outcome: Exception | None = None
        try:
            for number, container in enumerate(self._before):
                await self._container(number, container, ended)
            room = asyncio.Semaphore(MOST_LANES // (2 if self._position.apart else 1))
            async with asyncio.TaskGroup() as group:
                for number, container in enumerate(self._together, start=len(self._before)):
                    # The worker's own comes first here, so that it never waits for room.
                    await asyncio.sleep(0)
                    group.create_task(self._in_room(room, number, container, ended), name=f"read {self._worker.name} {container.name}")
            if self._lost:
                outcome = SourceLostError(
                    f"the end of the log of {', '.join(dict.fromkeys(self._lost))} in pod {self._worker.name} is gone"
                )
        except Exception as error:  # raised again by whoever takes it from the queue
            outcome = error
        await self._batches.put(outcome)

    async def _in_room(self, room: asyncio.Semaphore, number: int, container: Container, ended: Ending) -> None:
        async with room:
            await self._container(number, container, ended)

    async def _container(self, number: int, container: Container, ended: Ending) -> None:
        """One container to its end, if that was not reached before."""
        if number in self._position.ended:
            return
        streams = {False: "Stdout", True: "Stderr"} if self._position.apart else {False: ""}
        async with asyncio.TaskGroup() as group:
            for stderr, stream in streams.items():
                place = self._position.place(lane(number, stderr=stderr))
                one = Lane(self._client, self._worker, container.name, stream, place)
                group.create_task(self._lane(one, number, ended, stderr=stderr), name=f"read {self._worker.name} {container.name} {stream}")
        await self._batches.put(_Batch(number, stderr=False, entries=[]))

    async def _lane(self, one: Lane, number: int, ended: Ending, *, stderr: bool) -> None:
        async def deliver(entries: list[Entry]) -> None:
            if entries:
                await self._batches.put(_Batch(number, stderr, entries))

        await one.run(ended, self._split, self._longest, deliver)
        if one.lost:
            self._lost.append(one.container)
