"""What is known of all runs in the cluster: the watch and our own writes keep it, lists are read from it. Pure."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from otto_executor.stage import StageStatus
from otto_executor.stores.pipelinerun import FINALIZER, INSTANCE_LABEL, REFUSED, Fate, Meta, SeenMemory, read_summary
from otto_executor.stores.protocol import Key, Summary, Workspace

TAKING = 60.0
"""Seconds that a workspace counts as taken by a run that nobody has seen yet: its creation may be on its way."""


@dataclass(frozen=True, slots=True)
class Known:
    """A run as it is known. `summary` is None for one that nobody has begun."""

    name: str
    uid: str
    resource_version: str
    pipeline_id: str
    deleting: bool
    finalizers: tuple[str, ...]
    version: int
    summary: Summary | None
    workspace: Fate
    refused_at: float | None = None
    """When it was put there, for one that was refused: no executor will ever begin it."""

    @property
    def held(self) -> bool:
        """Whether it has our finalizer."""
        return FINALIZER in self.finalizers

    @property
    def begun(self) -> bool:
        """Whether an executor has begun it. What was saved tells it also of a run whose finalizer we, or somebody else, took off."""
        return self.held or self.version > 0

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self.summary is not None and self.summary.ended_at is not None

    @classmethod
    def of(cls, meta: Meta, pipeline_id: str, memory: SeenMemory, summary: Summary | None = None, *, state: str = "") -> "Known":
        """What an object says. `summary` is used where it has none yet; `state` is told where it may be Refused."""
        refused = state == REFUSED and memory.version == 0 and meta.creation_timestamp is not None
        return cls(
            meta.name,
            meta.uid,
            meta.resource_version,
            pipeline_id or meta.name,
            meta.deletion_timestamp is not None,
            meta.finalizers,
            memory.version,
            read_summary(memory.summary) or summary,
            memory.workspace,
            meta.creation_timestamp.timestamp() if refused and meta.creation_timestamp else None,
        )


def ours(meta: Meta, instance: str) -> bool:
    """Whether the object is this installation's: nobody else's label is on it."""
    return meta.labels.get(INSTANCE_LABEL, instance) == instance


class Picture:
    """All runs, by their objects' names and by their ids."""

    def __init__(self) -> None:
        """Empty."""
        self._known: dict[str, Known] = {}
        self._names: dict[str, str] = {}
        """Ids of runs that were begun, and their objects' names."""
        self._order: list[Key] = []

    def __len__(self) -> int:
        return len(self._known)

    def named(self, name: str) -> Known | None:
        """What is known of an object."""
        return self._known.get(name)

    def of(self, pipeline_id: str) -> Known | None:
        """What is known of a run that was begun."""
        name = self._names.get(pipeline_id)
        return self._known[name] if name is not None else None

    def damaged(self, pipeline_id: str) -> Known | None:
        """What is known of a run that was begun and of which nothing more can be told."""
        return next((known for known in self._known.values() if known.pipeline_id == pipeline_id and known.held), None)

    def put(self, known: Known) -> bool:
        """An object is like this; False if that is older than what is known, of it or of the one that has taken its name."""
        before = self._known.get(known.name)
        if before is not None and _older(known.resource_version, before.resource_version):
            return False
        if before is not None and _key(before) == _key(known) is not None:
            self._known[known.name] = known
            return True
        if before is not None:
            self._remove(before)
        self._known[known.name] = known
        if known.summary is not None and self._names.setdefault(known.pipeline_id, known.name) == known.name:
            insort(self._order, Key(known.summary.created_at, known.pipeline_id))
        return True

    def gone(self, name: str, uid: str) -> bool:
        """An object is gone; False if another one has taken its place."""
        known = self._known.get(name)
        if known is None or known.uid != uid:
            return False
        self._remove(known)
        return True

    def _remove(self, known: Known) -> None:
        del self._known[known.name]
        if known.summary is not None and self._names.get(known.pipeline_id) == known.name:
            del self._names[known.pipeline_id]
            del self._order[bisect_left(self._order, Key(known.summary.created_at, known.pipeline_id))]

    def names(self) -> list[str]:
        """The names of all objects."""
        return list(self._known)

    def _summaries(self) -> Iterator[tuple[Known, Summary]]:
        for name in self._names.values():
            known = self._known[name]
            if known.summary is not None:
                yield known, known.summary

    def unfinished(self) -> list[str]:
        """See RunStore."""
        found = [Key(short.created_at, known.pipeline_id) for known, short in self._summaries() if short.ended_at is None]
        return [key.pipeline_id for key in sorted(found)]

    def page(self, statuses: Collection[StageStatus], after: Key | None, limit: int) -> list[Summary]:
        """See RunStore."""
        found: list[Summary] = []
        for key in reversed(self._order):
            if len(found) == limit:
                break
            known = self.of(key.pipeline_id)
            if (after is not None and key >= after) or known is None or known.summary is None:
                continue
            if not statuses or known.summary.status in statuses:
                found.append(known.summary)
        return found

    def fate(self, known: Known, now: float) -> str:
        """What has become of the run's workspace: kept, condemned, taken or gone. What was taken for a run that never came is kept."""
        mark = known.workspace
        if mark.fate == "taken" and mark.taken_by not in self._names and now - mark.taken_at > TAKING:
            return "kept"
        return mark.fate or "kept"

    def workspaces(self, now: float) -> list[Workspace]:
        """See RunStore."""
        found = [
            Workspace(short.ended_at, known.pipeline_id, short.workspace)
            for known, short in self._summaries()
            if short.ended_at is not None and self.fate(known, now) in {"kept", "condemned"}
        ]
        return sorted(found)

    def forgettable(self, ended_before: float, keep: int, most: int, now: float) -> list[Known]:
        """The runs that RunStore.forget would delete, the oldest first; those that were refused go by their age alone."""
        ended = [(short.ended_at, known) for known, short in self._summaries() if short.ended_at is not None]
        newest = heapq.nlargest(keep, (at for at, _ in ended))
        oldest = newest[-1] if newest and len(newest) == keep else 0.0
        old = [(at, known) for at, known in ended if (at < ended_before or at < oldest) and self.fate(known, now) in {"gone", "taken"}]
        refused = [(known.refused_at, known) for known in self._known.values() if known.refused_at is not None]
        old += [(at, known) for at, known in refused if at < ended_before]
        return [known for _, known in sorted(old, key=lambda pair: pair[0])[:most]]


def _key(known: Known) -> Key | None:
    return Key(known.summary.created_at, known.pipeline_id) if known.summary is not None else None


def _older(version: str, than: str) -> bool:
    """Whether a resource version is older; they are numbers that grow (Kubernetes promises so since 1.35). Others are taken for newer."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)
