"""The SQLite file of runs, opened: held against others, looked over before anything in it changes, and made if there is none.

What is not ours, of a newer version, in use or out of reach is refused and stays as it is. What bears our mark and is damaged is moved
aside, whole, under a name that is told; then there is a new, empty file, because a service that does not start helps nobody whose
pipeline is not in the damaged part.
"""

import errno
import fcntl
import logging
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from otto_executor.errors import StoreUnusableError

log = logging.getLogger(__name__)
APPLICATION_ID = 0x4F54544F
"""`OTTO`: marks the file as ours (PRAGMA application_id)."""
SCHEMA_VERSION = 1
_MARK_AT = 68
"""Where the application id stands in a file, four bytes, as https://www.sqlite.org/fileformat2.html has it."""
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_WAL_HEADER = 32
_ANOTHER = "or name another file in OTTO_EXECUTOR_DATABASE"
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_WORDS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it can't be written",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened",
    sqlite3.SQLITE_PERM: "it may not be opened",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_BUSY: "another process uses it",
    sqlite3.SQLITE_LOCKED: "another process uses it",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is no database, or a damaged one",
}
SCHEMA = """
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


class OpenFile:
    """A connection to a file whose schema is ready, and the lock on it."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int) -> None:
        """Takes both over."""
        self.path = path
        self.connection = connection
        self._lock = lock
        self._log = path.with_name(f"{path.name}-wal")
        self._begun_log = _found(self._log)
        self._connected = True

    @property
    def taken_away(self) -> bool:
        """Whether the path leads to another file, or to none: what is written then is gone with the process."""
        there = _found(self.path)
        return there is None or not os.path.samestat(there, os.fstat(self._lock))

    @property
    def log_taken_away(self) -> bool:
        """Whether the write-ahead log, which holds what was stored last, is not where the next process looks for it."""
        there = _found(self._log)
        self._begun_log = self._begun_log or there
        lost = self._begun_log is not None and (there is None or not os.path.samestat(there, self._begun_log))
        return lost or not self._connected

    def begin_log(self) -> None:
        """Takes what only the log holds into the file, as both are open still, and begins another one. Raises sqlite3.Error: try again."""
        if self._connected:
            busy = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                raise sqlite3.OperationalError("the log can't be taken in now")
            self.connection.close()
            self._connected = False
        self.connection = _connect(self.path)
        self._connected = True
        self._begun_log = _found(self._log)

    def close(self) -> None:
        """Lets go of the file. Only after the connection: closing a descriptor of a file ends SQLite's own locks on it."""
        self.connection.close()
        os.close(self._lock)


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def in_words(error: sqlite3.Error) -> str:
    """What is wrong, in words of ours."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return _WORDS.get(code) or f"SQLite reports {getattr(error, 'sqlite_errorname', type(error).__name__)}"


def open_file(path: Path) -> OpenFile:
    """Opens the file, making it and its directory if there is none.

    Raises StoreUnusableError, which says what is wrong and what to do. Nothing in a file that can't be used is touched.
    """
    path = path.expanduser().absolute()
    while True:
        lock = _hold(path)
        try:
            wrong = _damage(path, lock)
            if not wrong:
                return OpenFile(path, _connect(path), lock)
            _move_aside(path, wrong)
        except sqlite3.Error as error:
            os.close(lock)
            raise StoreUnusableError(f"the memory of runs {path} can't be used: {in_words(error)}. {remedy(error)}, {_ANOTHER}") from error
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def remedy(error: sqlite3.Error) -> str:
    """What to do about it: the beginning of a sentence."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGE:
        return "Start the service again, which keeps the damaged file aside and begins a new one"
    return "Make room on its disk" if code == sqlite3.SQLITE_FULL else "Make it readable and writable"


def _hold(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror).lower()
        remedy = "Make room there" if error.errno == errno.ENOSPC else "Make it writable"
        raise StoreUnusableError(f"the memory of runs {path} can't be opened: {what}. {remedy}, {_ANOTHER}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StoreUnusableError(_in_use(path)) from error
    return lock


def _in_use(path: Path) -> str:
    return f"the memory of runs {path} is in use by another process. Stop that one, {_ANOTHER}"


def _damage(path: Path, lock: int) -> str:
    """What is damaged in a file of ours; "" for a sound one and an empty one. Raises StoreUnusableError for one that may not be touched."""
    wal = path.with_name(f"{path.name}-wal")
    size, unsaved = os.fstat(lock).st_size, wal.stat().st_size if wal.exists() else 0
    if not size:
        return "it is empty, though there is more in its write-ahead log" if unsaved else ""  # SQLite would delete that log
    marked = os.pread(lock, 4, _MARK_AT) == APPLICATION_ID.to_bytes(4)
    if marked and unsaved and not _is_wal(wal):
        _move_aside(wal, "it is no write-ahead log; what was stored last is lost")  # SQLite would overwrite it
    index = path.with_name(f"{path.name}-shm")
    used = index.exists()  # by another process, which may have it mapped
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2.0)) as connection:
            return _unsound(connection, path)
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise StoreUnusableError(_in_use(path)) from error
        if code not in _DAMAGE:
            raise
        if not marked:
            raise StoreUnusableError(
                f"{path} is no database of runs, or one whose beginning is damaged. Move it away, {_ANOTHER}"
            ) from error
        return in_words(error)
    finally:
        if not used:
            index.unlink(missing_ok=True)  # reading has made it; what is kept lies in the other two


def _is_wal(wal: Path) -> bool:
    with wal.open("rb") as file:
        header = file.read(_WAL_HEADER)
    return len(header) == _WAL_HEADER and int.from_bytes(header[:4]) in _WAL_MAGIC


def _unsound(connection: sqlite3.Connection, path: Path) -> str:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreUnusableError(f"{path} is a database, but not one of runs. Move it away, {_ANOTHER}")
    if version > SCHEMA_VERSION:
        raise StoreUnusableError(
            f"the memory of runs {path} was written by a newer version (schema {version}; this one knows {SCHEMA_VERSION}). "
            f"Start that version again, {_ANOTHER}"
        )
    sound = not tables or connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    return "" if sound else "it is damaged"


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        fresh = connection.execute("PRAGMA user_version").fetchone()[0] == 0
        if fresh:
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
        if fresh:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the file itself bears our mark from the beginning
        path.chmod(0o600)
    except BaseException:
        connection.close()
        raise
    return connection


def _move_aside(path: Path, why: str) -> None:
    """Renames a file, and what SQLite keeps beside it, so that both still belong together."""
    kept = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    try:
        path.rename(kept)
        wal = path.with_name(f"{path.name}-wal")
        if wal.exists():
            wal.rename(kept.with_name(f"{kept.name}-wal"))
    except OSError as error:
        raise StoreUnusableError(f"{path} can't be used: {why}; nor can it be moved aside. Move it away, {_ANOTHER}") from error
    log.error("executor.store.moved_aside", extra={"path": str(path), "kept": str(kept), "reason": why})
