"""Runs in one SQLite file: what standalone and a single executor use.

Called inline: a commit takes 40 µs, or 0.2 to 4 ms where it has to survive a power cut (measured; CONTRIBUTING.md has the worst), which
only starts, ends and decisions need. The file belongs to one process at a time (a lock of ours and SQLite's exclusive locking), so a second
executor on it is refused.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from otto_executor.definition import Definition
from otto_executor.errors import (
    PipelineExistsError,
    RunUnreadableError,
    SaveConflictError,
    StoreUnavailableError,
    WorkspaceGoneError,
)
from otto_executor.progress import Progress
from otto_executor.run_state import RunState
from otto_executor.stage import StageStatus
from otto_executor.stores.protocol import Key, StoredRun, Summary, Workspace, summary
from otto_executor.stores.sqlite_file import OpenFile, in_words, open_file, remedy

log = logging.getLogger(__name__)
FORGET_AT_ONCE = 100
"""Runs deleted by one call of `forget`, so that the loop is not held for long."""
_KEPT, _CONDEMNED = 1, 2
"""Of workspace_kept, where 0 is gone: it may be taken over, or is about to be deleted."""
_TAKEN_AWAY = (
    "was taken away from under the service",
    "its file was moved or deleted",
    "Put its file back where it was, or start the service again, which begins a new one if there is none",
)
_SHORT = "pipeline_id, created_at, ended_at, status, summary"
_encode = msgspec.json.Encoder().encode
_definition = msgspec.json.Decoder(Definition).decode
_state = msgspec.json.Decoder(RunState).decode
_summary = msgspec.json.Decoder(Summary).decode
_progress = msgspec.json.Decoder(Progress).decode


class SqliteStore:
    """A RunStore in a file; made by `open_store`."""

    def __init__(self, file: OpenFile) -> None:
        """Takes the file over."""
        self._file = file
        self._full = True
        self._failing = False

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._file.connection

    async def create(self, run: StoredRun, progress: Sequence[Progress], *, takes_workspace_of: str = "") -> None:
        """See RunStore."""
        with self._transaction(edge=True) as execute:
            known = execute("SELECT status, ended_at FROM runs WHERE pipeline_id = ?", (run.definition.pipeline_id,)).fetchone()
            if known is not None:
                raise PipelineExistsError(run.definition.pipeline_id, known[0].lower(), ended=known[1] is not None)
            if takes_workspace_of:
                taken = execute(
                    "UPDATE runs SET workspace_kept = 0 WHERE pipeline_id = ? AND ended_at IS NOT NULL AND workspace_kept = ?",
                    (takes_workspace_of, _KEPT),
                )
                if taken.rowcount != 1:
                    raise WorkspaceGoneError(takes_workspace_of)
            short = summary(run.definition, run.state)
            execute(
                "INSERT INTO runs (pipeline_id, created_at, ended_at, status, version, definition, request, state, summary) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run.definition.pipeline_id,
                    run.state.created_at,
                    run.state.ended_at,
                    run.state.status,
                    run.version,
                    _encode(run.definition),
                    run.request,
                    _encode(run.state),
                    _encode(short),
                ),
            )
            self._add(run.definition.pipeline_id, progress)

    async def save(self, run: StoredRun, progress: Sequence[Progress], *, edge: bool) -> None:
        """See RunStore."""
        state, short = _encode(run.state), _encode(summary(run.definition, run.state))
        with self._transaction(edge=edge) as execute:
            saved = execute(
                "UPDATE runs SET ended_at = ?, status = ?, version = version + 1, state = ?, summary = ? "
                "WHERE pipeline_id = ? AND version = ?",
                (run.state.ended_at, run.state.status, state, short, run.definition.pipeline_id, run.version),
            )
            if saved.rowcount != 1:
                raise SaveConflictError(f"pipeline {run.definition.pipeline_id!r} was saved by somebody else since version {run.version}")
            self._add(run.definition.pipeline_id, progress)
        run.version += 1

    async def load(self, pipeline_id: str) -> StoredRun | None:
        """See RunStore."""
        rows = self._read("SELECT definition, request, state, version FROM runs WHERE pipeline_id = ?", (pipeline_id,))
        if not rows:
            return None
        definition, request, state, version = rows[0]
        with _understood(pipeline_id):
            run = StoredRun(_definition(definition), request, _state(state), version)
        if run.state.stages.keys() != {stage.stage_id for stage in run.definition.stages}:
            raise RunUnreadableError(pipeline_id, "its state is one of other stages")
        return run

    async def summary(self, pipeline_id: str) -> Summary | None:
        """See RunStore."""
        return next(map(_short, self._read(f"SELECT {_SHORT} FROM runs WHERE pipeline_id = ?", (pipeline_id,))), None)  # noqa: S608  a constant

    async def unfinished(self) -> list[str]:
        """See RunStore."""
        return [row[0] for row in self._read("SELECT pipeline_id FROM runs WHERE ended_at IS NULL ORDER BY created_at, pipeline_id", ())]

    async def progress(self, pipeline_id: str, after: int, limit: int) -> list[Progress]:
        """See RunStore."""
        rows = self._read(
            "SELECT body FROM progress WHERE pipeline_id = ? AND sequence > ? ORDER BY sequence LIMIT ?", (pipeline_id, after, limit)
        )
        with _understood(pipeline_id):
            return [_progress(row[0]) for row in rows]

    async def page(self, statuses: Collection[StageStatus], after: Key | None, limit: int) -> list[Summary]:
        """See RunStore."""
        conditions: list[str] = ["1"]
        values: list[str | float] = []
        if statuses:
            conditions.append(f"status IN ({', '.join('?' * len(statuses))})")
            values += [str(status) for status in statuses]
        if after is not None:
            conditions.append("(created_at, pipeline_id) < (?, ?)")
            values += [after.created_at, after.pipeline_id]
        where = " AND ".join(conditions)
        query = f"SELECT {_SHORT} FROM runs WHERE {where} ORDER BY created_at DESC, pipeline_id DESC LIMIT ?"  # noqa: S608  `where` holds constants and question marks only
        return list(map(_short, self._read(query, (*values, limit))))

    async def workspaces(self) -> list[Workspace]:
        """See RunStore."""
        rows = self._read(f"SELECT {_SHORT} FROM runs WHERE ended_at IS NOT NULL AND workspace_kept ORDER BY ended_at", ())  # noqa: S608  a constant
        ended = [(short.ended_at, short) for short in map(_short, rows)]
        return [Workspace(at, s.pipeline_id, s.workspace or Definition(s.pipeline_id).workspace) for at, s in ended if at is not None]

    async def condemn_workspace(self, pipeline_id: str) -> bool:
        """See RunStore."""
        with self._transaction(edge=False) as execute:
            found = execute(
                "UPDATE runs SET workspace_kept = ? WHERE pipeline_id = ? AND ended_at IS NOT NULL AND workspace_kept",
                (_CONDEMNED, pipeline_id),
            )
        return found.rowcount == 1

    async def workspace_deleted(self, pipeline_id: str) -> None:
        """See RunStore."""
        with self._transaction(edge=False) as execute:
            execute("UPDATE runs SET workspace_kept = 0 WHERE pipeline_id = ?", (pipeline_id,))

    async def forget(self, ended_before: float, keep: int) -> int:
        """See RunStore."""
        with self._transaction(edge=False) as execute:
            gone = execute(
                "SELECT pipeline_id FROM runs WHERE ended_at IS NOT NULL AND NOT workspace_kept AND (ended_at < ? OR ended_at < "
                "(SELECT ended_at FROM runs WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 1 OFFSET ?)) ORDER BY ended_at LIMIT ?",
                (ended_before, max(0, keep - 1), FORGET_AT_ONCE),
            ).fetchall()
            for (pipeline_id,) in gone:
                execute("DELETE FROM progress WHERE pipeline_id = ?", (pipeline_id,))
                execute("DELETE FROM runs WHERE pipeline_id = ?", (pipeline_id,))
        return len(gone)

    def pause(self, pipeline_id: str) -> float:  # noqa: ARG002  the same for all
        """See RunStore."""
        return 0.0

    async def close(self) -> None:
        """See RunStore."""
        self._file.close()

    def _add(self, pipeline_id: str, progress: Sequence[Progress]) -> None:
        self._connection.executemany(
            "INSERT INTO progress (pipeline_id, sequence, body) VALUES (?, ?, ?)", [(pipeline_id, p.sequence, _encode(p)) for p in progress]
        )

    @contextmanager
    def _transaction(self, *, edge: bool) -> Iterator[Callable[..., sqlite3.Cursor]]:
        if self._file.taken_away:
            raise self._unusable(*_TAKEN_AWAY)
        try:
            if self._file.log_taken_away:
                self._begin_log()
            if edge is not self._full:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if edge else 'NORMAL'}")
                self._full = edge
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failed("written", error) from error
        self._works()

    def _begin_log(self) -> None:
        log.error("executor.store.log_taken_away", extra={"path": str(self._file.path)})
        self._file.begin_log()
        self._full = True

    def _read(self, query: str, values: Sequence[object]) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._failed("read", error) from error

    def _failed(self, what: str, error: sqlite3.Error) -> StoreUnavailableError:
        words = in_words(error)
        return self._unusable(f"can't be {what} now: {words}", f"{words} ({error})", remedy(error))

    def _unusable(self, what: str, reason: str, remedy: str) -> StoreUnavailableError:
        if not self._failing:
            self._failing = True
            log.error("executor.store.failing", extra={"path": str(self._file.path), "reason": reason})
        return StoreUnavailableError(f"the memory of runs {what}", reason, remedy)

    def _works(self) -> None:
        if self._failing:
            self._failing = False
            log.info("executor.store.works_again", extra={"path": str(self._file.path)})


@contextmanager
def _understood(pipeline_id: str) -> Iterator[None]:
    try:
        yield
    except (msgspec.MsgspecError, TypeError) as error:  # TypeError: no bytes at all
        raise RunUnreadableError(pipeline_id, str(error)) from error


def _short(row: tuple[str, float, float | None, str, bytes]) -> Summary:
    """A run in short; of one whose summary can't be understood what else is known of it, so that lists go on."""
    pipeline_id, created_at, ended_at, status, short = row
    try:
        return _summary(short)
    except (msgspec.MsgspecError, TypeError):
        known = StageStatus.__members__.get(status, StageStatus.FAILED)
        error = "what is kept of this pipeline is damaged or was written by another version"
        return Summary(pipeline_id, pipeline_id, known, 0, 0, (), created_at, ended_at, error, "", "", "")


async def open_store(path: Path) -> SqliteStore:
    """Opens the file, making it and its directory if there is none; a damaged one is moved aside and told.

    Raises StoreUnusableError, which says what is wrong and what to do, for a file that is not ours, of a newer version, in use or out of
    reach. Nothing in such a file is touched.
    """
    return SqliteStore(await asyncio.to_thread(open_file, path))
