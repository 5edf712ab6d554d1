"""A worker's directory: all that is known of it, so that a service that starts anew finds every worker as it is.

spec         what it is (JSON; may hold variables given in clear text, so 0600)
held         present while it must not be started
log          its output, CRI format; written by the supervisor, read by the log-relay
secrets      values to be masked in its log (JSON list, 0600); absent if there are none
home/ work/  its HOME, and its working directory unless it has a workspace
supervisor, started, stop, exit      see supervisor.report
supervisor.err                       what a supervisor that failed had to say
"""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from otto_scaler.backends.process.supervisor import report
from otto_scaler.backends.process.supervisor.report import Ending
from otto_scaler.worker import Cause, State, Worker, WorkerSpec

TRASH = ".trash-"
NEW = ".new-"
HELD_REASON = "waits for room under the cap on concurrent workers"
STARTING_REASON = "its supervisor is starting"


class Record(msgspec.Struct, frozen=True):
    """The content of `spec`."""

    spec: WorkerSpec
    uid: str
    created: int
    version: int = 1


class WorkerDirectory:
    """One worker's directory, by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The worker's name."""
        return self.path.name

    @property
    def home(self) -> Path:
        """The worker's HOME."""
        return self.path / "home"

    @property
    def work(self) -> Path:
        """Where it works when it has no workspace."""
        return self.path / "work"

    def make(self, record: Record, *, held: bool) -> bool:
        """Makes the directory, whole or not at all; False if it is there already. Raises OSError."""
        new = self.path.with_name(f"{NEW}{self.name}-{record.uid}")
        new.mkdir(parents=True, mode=0o700)
        try:
            (new / "home").mkdir(mode=0o700)
            (new / "work").mkdir(mode=0o700)
            private(new / "spec", msgspec.json.encode(record))
            if held:
                private(new / "held", b"")
            try:
                new.rename(self.path)
            except OSError:
                if not self.path.exists():
                    raise
                return False
        finally:
            if new.exists():
                delete_tree(new)
        return True

    def load(self) -> Record:
        """What it is. Raises OSError, or ValueError for a spec that can't be understood."""
        try:
            record = msgspec.json.decode((self.path / "spec").read_bytes(), type=Record)
        except msgspec.DecodeError as error:
            raise ValueError(f"{self.path / 'spec'}: {error}") from error
        if record.spec.identity.name != self.name or record.version != 1:
            raise ValueError(f"{self.path / 'spec'}: it is about another worker, or of another version")
        return record

    def held(self) -> bool:
        """Whether it must not be started yet."""
        return (self.path / "held").exists()

    def unhold(self) -> None:
        """From now on it may be started."""
        (self.path / "held").unlink(missing_ok=True)

    def keep_secrets(self, values: list[str]) -> None:
        """Writes the values to be masked. Raises OSError."""
        if values:
            private(self.path / "secrets", json.dumps(values).encode())

    def ending(self) -> Ending | None:
        """How it ended; None if it has not, or not been noted. A report that makes no sense is an ending of its own."""
        try:
            return report.read_ending(str(self.path))
        except ValueError as error:
            return Ending(None, Cause.INTERNAL.name, f"its end was not recorded well: {error}", 0, self._changed())

    def started(self) -> int:
        """When it started; 0 if it has not."""
        text = report.read(str(self.path), report.STARTED).strip()
        return int(text) if text.isdigit() else 0

    def claim(self) -> tuple[int, int, str] | None:
        """Pid, start time and boot of the supervisor that runs or ran it; None if none did. (0, 0, "") if that can't be read."""
        text = report.read(str(self.path), report.CLAIM)
        if not text and not (self.path / report.CLAIM).exists():
            return None
        parts = text.split()
        return (int(parts[0]), int(parts[1]), parts[2]) if len(parts) == 3 else (0, 0, "")

    def stop_reason(self) -> str:
        """Why it was asked to stop; "" if it was not."""
        return report.read(str(self.path), report.STOP).strip()

    def last_words(self) -> str:
        """The last line that a failing supervisor wrote."""
        lines = report.read(str(self.path), "supervisor.err").strip().splitlines()
        return lines[-1][:500] if lines else ""

    def discard(self) -> Path:
        """Takes the directory away at once; returns what is left to be deleted. Raises OSError."""
        trash = self.path.with_name(f"{TRASH}{self.name}-{os.urandom(4).hex()}")
        return self.path.rename(trash)

    def _changed(self) -> int:
        return self.path.stat().st_mtime_ns

    def worker(self, record: Record, node: str, ending: Ending | None = None) -> Worker:
        """How the worker stands, as far as its files tell; one that runs may have lost its supervisor.

        `ending` is how it ended if its files don't say so.
        """
        identity, stopping = record.spec.identity, bool(self.stop_reason())
        ending, started = self.ending() or ending, self.started()
        if ending is not None:
            cause = Cause[ending.cause] if ending.cause in Cause.__members__ else Cause.UNSPECIFIED
            return Worker(
                identity,
                record.uid,
                State.FAILED if ending.cause else State.SUCCEEDED,
                record.created,
                started=ending.started or started,
                ended=ending.ended or record.created,
                stopping=stopping,
                exit_code=ending.code,
                cause=cause,
                error=ending.message,
                node=node,
            )
        held = self.held()
        state = State.RUNNING if started else State.PENDING
        reason = "" if started else HELD_REASON if held else STARTING_REASON
        return Worker(
            identity, record.uid, state, record.created, started=started, held=held, stopping=stopping, pending_reason=reason, node=node
        )


def private(path: Path, content: bytes) -> None:
    """Writes a file that only this user can read, whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    beside.rename(path)


def delete_tree(path: Path) -> None:
    """Deletes a directory with all that is in it, also where a worker has made it read-only. Raises OSError if something can't be
    deleted.
    """

    def again(_function: Callable[..., Any], failed: str, error: Any) -> None:
        if isinstance(error[1], FileNotFoundError):
            return
        parent = Path(failed).parent
        for locked in (parent, Path(failed)):
            if locked.is_dir() and not locked.is_symlink():
                locked.chmod(stat.S_IRWXU)
        if Path(failed).is_dir() and not Path(failed).is_symlink():
            shutil.rmtree(failed)
        else:
            Path(failed).unlink(missing_ok=True)

    shutil.rmtree(path, onerror=again)
