"""A worker's directory: all that is known of it, so that a service that starts anew finds every worker as it is.

spec         what it is (JSON; may hold variables given in clear text, so 0600)
held         present while it must not be started
log          its output, CRI format; written by the supervisor, read by the log-relay
secrets      values to be masked in its log (JSON list, 0600); absent if there are none
supervisor, started, stop, exit      see supervisor.report
supervisor.err                       what a supervisor that failed had to say

What is the worker's own lies elsewhere (`own`). It may write here all the same, as a process of the same user, so what is read is checked.
"""

import json
import math
import os
from pathlib import Path

import msgspec

from otto_runtime import spans
from otto_scaler.backends.process.supervisor import control, report
from otto_scaler.backends.process.supervisor.control import UnreadableError
from otto_scaler.backends.process.supervisor.report import Ending
from otto_scaler.backends.process.trash import NEW, TRASH, delete_tree
from otto_scaler.worker import Cause, WorkerSpec

ASIDE = ".aside-"
"""Begins the name of what lay in a worker's place and could not be understood."""
HELD_REASON = "waits for room under the cap on concurrent workers"
STARTING_REASON = "its supervisor is starting"
MOST_REASON_CHARACTERS = 1000
MOST_SPEC_BYTES = 16 * 1024 * 1024
"""Some times the largest request."""
MOST_IDENTITY_BYTES = 256 * 1024
"""What a worker's status may say of its identity, so that one spoiled spec makes no message too large for everybody."""


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

    def make(self, record: Record, *, held: bool) -> bool:
        """Makes the directory, whole or not at all; False if it is there already. Raises OSError."""
        new = self.path.with_name(f"{NEW}{self.name}-{record.uid}")
        new.mkdir(parents=True, mode=0o700)
        try:
            private(new / "spec", msgspec.json.encode(record))
            report.reserve(str(new))
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
        """What it is. Raises OSError, UnreadableError, or ValueError for a spec that can't be understood."""
        content = control.read_bytes(str(self.path), "spec", MOST_SPEC_BYTES)
        try:
            record = msgspec.json.decode(content or b"", type=Record)
        except msgspec.DecodeError as error:
            raise ValueError(f"{self.path / 'spec'}: {error}") from error
        if record.spec.identity.name != self.name or record.version != 1:
            raise ValueError(f"{self.path / 'spec'}: it is about another worker, or of another version")
        if not _sensible(record):
            raise ValueError(f"{self.path / 'spec'}: a value is out of its range")
        return record

    def held(self) -> bool:
        """Whether it must not be started yet."""
        return os.path.lexists(self.path / "held")

    def unhold(self) -> None:
        """From now on it may be started."""
        (self.path / "held").unlink(missing_ok=True)

    def keep_secrets(self, values: list[str]) -> None:
        """Writes the values to be masked. Raises OSError."""
        if values:
            private(self.path / "secrets", json.dumps(values).encode())

    def ending(self) -> Ending | None:
        """How it ended; None if it has not, or not been noted. Raises UnreadableError, OSError."""
        ending = report.read_ending(str(self.path))
        if ending is not None and ending.cause and ending.cause not in Cause.__members__:
            raise UnreadableError(report.EXIT)
        return ending

    def started(self) -> int:
        """When it started; 0 if it has not. Raises UnreadableError, OSError."""
        return report.read_started(str(self.path))

    def claim(self) -> tuple[int, int, str] | None:
        """Pid, start time and boot of the supervisor that runs or ran it; None if none did. (0, 0, "") if that can't be told. Raises
        OSError.
        """
        try:
            return report.read_claim(str(self.path))
        except UnreadableError:
            return (0, 0, "")

    def stop_reason(self) -> str:
        """Why it was asked to stop; "" if it was not. Raises OSError."""
        try:
            return " ".join((control.read(str(self.path), report.STOP) or "").split())[:MOST_REASON_CHARACTERS]
        except UnreadableError:
            return "it was asked to stop, and why can't be told any more"

    def last_words(self) -> str:
        """The last line that a failing supervisor wrote, for our log."""
        try:
            content = control.read_bytes(str(self.path), "supervisor.err", MOST_SPEC_BYTES) or b""
        except (UnreadableError, OSError):
            return ""
        lines = content.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else ""

    def discard(self) -> Path:
        """Takes the directory away at once; returns what is left to be deleted. Raises OSError."""
        trash = self.path.with_name(f"{TRASH}{self.name}-{os.urandom(4).hex()}")
        return self.path.rename(trash)

    def set_aside(self) -> None:
        """Makes room for a worker where something lies that can't be understood, without destroying it. Raises OSError."""
        self.path.rename(self.path.with_name(f"{ASIDE}{self.name}-{os.urandom(4).hex()}"))


def _sensible(record: Record) -> bool:
    """Whether all numbers are such as a request can ask for, so that nobody who uses them meets a surprise."""
    spec, identity = record.spec, record.spec.identity
    counts = (identity.index, identity.count, identity.attempt)
    times = (spec.timeout, spec.stop_grace, spec.cpu_cores)
    return (
        0 < record.created <= report.LATEST
        and all(0 < count < 2**31 for count in counts)
        and all(math.isfinite(time) and 0 <= time < 1e12 for time in times)
        and 0 <= spec.memory_bytes < 2**63
        and record.uid.isascii()
        and record.uid.isalnum()
        and len(record.uid) <= 64
        and not identity.workspace.startswith(".")
        and "/" not in identity.workspace
        and (not identity.parent or spans.valid(identity.parent))
        and len(msgspec.json.encode(identity)) <= MOST_IDENTITY_BYTES
    )


def private(path: Path, content: bytes) -> None:
    """Writes a file that only this user can read, whole or not at all."""
    directory = str(path.parent)
    control.put(directory, control.write_beside(directory, path.name, content), path.name)
