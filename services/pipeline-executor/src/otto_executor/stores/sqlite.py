"""Runs in one SQLite file: what standalone and a single executor use.

Called inline: a commit takes 30 µs, or some 4 ms where it has to survive a power cut (measured), which only starts, ends and decisions
need. The file belongs to one process at a time (SQLite's exclusive locking), so a second executor on it is refused.
"""

import asyncio
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
    StoreUnusableError,
    WorkspaceGoneError,
)
from otto_executor.progress import Progress
from otto_executor.run_state import RunState
from otto_executor.stage import StageStatus
from otto_executor.stores.protocol import Key, StoredRun, Summary, Workspace, summary

APPLICATION_ID = 0x4F54544F
"""`OTTO`: marks the file as ours (PRAGMA application_id)."""
SCHEMA_VERSION = 1
FORGET_AT_ONCE = 100
"""Runs deleted by one call of `forget`, so that the loop is not held for long."""
_KEPT, _CONDEMNED = 1, 2
"""Of workspace_kept, where 0 is gone: it may be taken over, or is about to be deleted."""
_SCHEMA = """
CREATE TABLE runs (
    pipeline_id TEXT PRIMARY KEY,
    created_at REAL NOT NULL,
    ended_at REAL,
    status TEXT NOT NULL,
    workspace_kept INTEGER NOT NULL DEFAULT 1,
    version INTEGER NOT NULL,
    definition BLOB NOT NULL,
    request BLOB NOT NULL,
    state BLOB NOT NULL,
    summary BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX runs_by_age ON runs (created_at, pipeline_id);
CREATE INDEX runs_unfinished ON runs (created_at) WHERE ended_at IS NULL;
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE progress (
    pipeline_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (pipeline_id, sequence)
) WITHOUT ROWID;
"""
_encode = msgspec.json.Encoder().encode
_definition = msgspec.json.Decoder(Definition).decode
_state = msgspec.json.Decoder(RunState).decode
_summary = msgspec.json.Decoder(Summary).decode
_progress = msgspec.json.Decoder(Progress).decode


class SqliteStore:
    """A RunStore in a file; made by `open_store`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Takes a connection to a file whose schema is ready."""
        self._connection = connection
        self._full = True

    async def create(self, run: StoredRun, progress: Sequence[Progress], *, takes_workspace_of: str = "") -> None:
        """See RunStore."""
        with self._transaction(edge=True) as execute:
            known = execute("SELECT summary FROM runs WHERE pipeline_id = ?", (run.definition.pipeline_id,)).fetchone()
            if known is not None:
                found = _summary(known[0])
                raise PipelineExistsError(found.pipeline_id, found.status.lower(), ended=found.ended_at is not None)
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
        try:
            return next((StoredRun(_definition(row[0]), row[1], _state(row[2]), row[3]) for row in rows), None)
        except msgspec.MsgspecError as error:
            raise RunUnreadableError(f"what is kept of pipeline {pipeline_id!r} can't be understood: {error}") from error

    async def summary(self, pipeline_id: str) -> Summary | None:
        """See RunStore."""
        return next((_summary(row[0]) for row in self._read("SELECT summary FROM runs WHERE pipeline_id = ?", (pipeline_id,))), None)

    async def unfinished(self) -> list[str]:
        """See RunStore."""
        return [row[0] for row in self._read("SELECT pipeline_id FROM runs WHERE ended_at IS NULL ORDER BY created_at, pipeline_id", ())]

    async def progress(self, pipeline_id: str, after: int, limit: int) -> list[Progress]:
        """See RunStore."""
        rows = self._read(
            "SELECT body FROM progress WHERE pipeline_id = ? AND sequence > ? ORDER BY sequence LIMIT ?", (pipeline_id, after, limit)
        )
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
        query = f"SELECT summary FROM runs WHERE {where} ORDER BY created_at DESC, pipeline_id DESC LIMIT ?"  # noqa: S608  `where` holds constants and question marks only
        return [_summary(row[0]) for row in self._read(query, (*values, limit))]

    async def workspaces(self) -> list[Workspace]:
        """See RunStore."""
        rows = self._read(
            "SELECT ended_at, pipeline_id, summary FROM runs WHERE ended_at IS NOT NULL AND workspace_kept ORDER BY ended_at", ()
        )
        return [Workspace(at, name, _summary(short).workspace or Definition(name).workspace) for at, name, short in rows]

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

    async def close(self) -> None:
        """See RunStore."""
        self._connection.close()

    def _add(self, pipeline_id: str, progress: Sequence[Progress]) -> None:
        self._connection.executemany(
            "INSERT INTO progress (pipeline_id, sequence, body) VALUES (?, ?, ?)", [(pipeline_id, p.sequence, _encode(p)) for p in progress]
        )

    @contextmanager
    def _transaction(self, *, edge: bool) -> Iterator[Callable[..., sqlite3.Cursor]]:
        try:
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
            raise StoreUnavailableError(f"the memory of runs can't be written now ({error}); repeat the call") from error

    def _read(self, query: str, values: Sequence[object]) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"the memory of runs can't be read now ({error}); repeat the call") from error


async def open_store(path: Path) -> SqliteStore:
    """Opens the file, making it and its directory if there is none.

    Raises StoreUnusableError, which says what is wrong and what to do, for a file that is damaged, not ours, of a newer version, or in use.
    Nothing in such a file is touched.
    """
    return SqliteStore(await asyncio.to_thread(_open, path))


_ANOTHER = "or name another file in OTTO_EXECUTOR_DATABASE"


def _open(path: Path) -> sqlite3.Connection:
    path = path.expanduser().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StoreUnusableError(f"the memory of runs {path} can't be opened: {error}. Make it writable, {_ANOTHER}") from error
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        if wrong := _wrong(connection, path):
            raise StoreUnusableError(wrong)  # noqa: TRY301  the connection has to be closed here
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
        path.chmod(0o600)
    except sqlite3.OperationalError as error:
        connection.close()
        if "locked" in str(error):
            raise StoreUnusableError(f"the memory of runs {path} is in use by another process. Stop that one, {_ANOTHER}") from error
        raise StoreUnusableError(f"the memory of runs {path} can't be used: {error}. Make it writable, {_ANOTHER}") from error
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StoreUnusableError(f"{path} is no database, or a damaged one ({error}). Move it away, {_ANOTHER}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _wrong(connection: sqlite3.Connection, path: Path) -> str:
    """Why the file can't be used as the memory of runs; "" for one that can, and for an empty one."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and (application or version or tables):
        return f"{path} is a database, but not one of runs. Move it away, {_ANOTHER}"
    if version > SCHEMA_VERSION:
        return (
            f"the memory of runs {path} was written by a newer version (schema {version}; this one knows {SCHEMA_VERSION}). "
            f"Start that version again, {_ANOTHER}"
        )
    if tables and (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        return f"the memory of runs {path} is damaged ({found}). Move it away to start with an empty one, {_ANOTHER}"
    return ""
