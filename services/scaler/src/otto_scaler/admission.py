"""Who may run now: a cap on concurrent workers, and a queue that is fair between tasks. Pure: it only keeps names."""

from collections import deque
from itertools import zip_longest


class Admission:
    """Slots for at most `cap` workers.

    Whoever waits gets a slot in turns: one of each task that waits, so a task that asked for a thousand does not keep out one that asked
    for two.
    Within a task it is first come, first served. As slots are handed out as soon as they are free, nobody who comes later overtakes the
    queue.
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self._holders: set[str] = set()
        self._queues: dict[str, deque[str]] = {}
        self._queued: dict[str, str] = {}
        self._places: dict[str, int] | None = None
        """None: the queue has changed since they were asked for, which takes up to 20 ms with 10,000 that wait."""

    @property
    def room(self) -> int:
        """Free slots that nobody waits for."""
        return max(0, self.cap - len(self._holders)) if not self._queued else 0

    def holds(self, name: str) -> bool:
        """Whether it has a slot."""
        return name in self._holders

    def waits(self, name: str) -> bool:
        """Whether it waits for a slot."""
        return name in self._queued

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._queued)

    def places(self) -> dict[str, int]:
        """At which place each of those that wait would get a slot if nobody else came, from 1."""
        if self._places is None:
            turns = zip_longest(*self._queues.values())
            waiting = (name for turn in turns for name in turn if name is not None)
            self._places = {name: place for place, name in enumerate(waiting, 1)}
        return self._places

    def take(self, name: str) -> bool:
        """Gives `name` a slot if one is free and nobody waits; True if it has one now or had it before."""
        if name in self._holders:
            return True
        if not self.room:
            return False
        self._holders.add(name)
        return True

    def hold(self, name: str) -> None:
        """Notes that `name` runs, whether or not there is room: it was found running."""
        if name in self._queued:
            self.free(name)
        self._holders.add(name)

    def enqueue(self, task: str, name: str) -> None:
        """Lets `name` wait for a slot in its task's turn. One that waits or holds a slot already stays as it is."""
        if name in self._holders or name in self._queued:
            return
        self._places = None
        self._queued[name] = task
        self._queues.setdefault(task, deque()).append(name)

    def free(self, name: str) -> None:
        """Gives the slot or the place in the queue back; harmless for one that has neither."""
        self._holders.discard(name)
        task = self._queued.pop(name, None)
        if task is not None:
            self._places = None
            waiting = self._queues[task]
            waiting.remove(name)
            if not waiting:
                del self._queues[task]

    def admit(self) -> list[str]:
        """Hands the free slots to those whose turn it is, who hold them from now on."""
        admitted: list[str] = []
        while self._queues and len(self._holders) < self.cap:
            task, waiting = next(iter(self._queues.items()))
            self._places = None
            name = waiting.popleft()
            del self._queues[task]
            if waiting:
                self._queues[task] = waiting
            del self._queued[name]
            self._holders.add(name)
            admitted.append(name)
        return admitted
