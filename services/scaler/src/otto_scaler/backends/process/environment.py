"""What a worker of the process backend gets to see: its variables, its secrets, its command."""

import errno
import hashlib
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from otto_scaler.backends.process.directory import Record
from otto_scaler.backends.process.own import OwnDirectory
from otto_scaler.backends.process.supervisor.launch import Launch
from otto_scaler.errors import RefusedError
from otto_scaler.worker import WorkerSpec

MAX_SECRET_BYTES = 32_768


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for all workers."""

    secrets_dir: Path
    path: str
    """PATH."""
    language: str
    """LANG."""
    descriptors: int = 0
    """How many files a worker's program may have open at first; 0: as many as the service."""
    patience: float = 15.0
    """Seconds that a supervisor has beyond timeout (or stop) and grace before the service ends its worker itself. It takes up to 10 of them
    where the kernel holds processes."""


def secret_values(spec: WorkerSpec, secrets_dir: Path) -> dict[str, str]:
    """The values of the secret variables, by variable.

    A file is read as it is, but for one newline at its end, which editors and `echo` put there. Raises RefusedError that names what is
    missing.
    """
    values: dict[str, str] = {}
    for wanted in spec.secrets:
        file = secrets_dir / wanted.secret / wanted.key
        try:
            content = _content(file)
        except OSError as error:
            what = "has no such key" if (secrets_dir / wanted.secret).is_dir() else "does not exist"
            why = what if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
            raise RefusedError(f"the secret {wanted.secret}/{wanted.key} for the variable {wanted.name} {why}") from error
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise RefusedError(f"the secret {wanted.secret}/{wanted.key} for the variable {wanted.name} is no UTF-8 text") from error
        if "\0" in text or len(content) > MAX_SECRET_BYTES:
            raise RefusedError(
                f"the secret {wanted.secret}/{wanted.key} for the variable {wanted.name} holds a NUL "
                f"or is longer than {MAX_SECRET_BYTES} bytes"
            )
        values[wanted.name] = text.removesuffix("\n").removesuffix("\r")
    return values


def _content(file: Path) -> bytes:
    """What a file holds, up to a byte more than a secret may. A pipe would hold the thread for good. Raises OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        return os.read(descriptor, MAX_SECRET_BYTES + 1)
    finally:
        os.close(descriptor)


def to_mask(spec: WorkerSpec, secrets: dict[str, str]) -> list[str]:
    """Every value that must not appear in the log: the secrets, and the password in the repository's URL."""
    values = [value for value in secrets.values() if value]
    if "://" in spec.repository:
        try:
            parts = urlsplit(spec.repository)
        except ValueError:
            return values
        for part in (parts.password, None if parts.password or parts.scheme == "ssh" else parts.username):
            if part:
                values += sorted({part, unquote(part)})
    return values


def brand(uid: str) -> int:
    """The number that the processes of the worker with that uid carry: from 2⁶¹ on, where nobody has a limit by chance."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8]) >> 3 | 1 << 61


def launch(record: Record, own: OwnDirectory, workspace: Path, secrets: dict[str, str], surroundings: Surroundings) -> Launch:
    """What the supervisor is told. What was given wins over PATH, HOME and LANG, never over OTTO_*."""
    spec = record.spec
    identity = spec.identity
    env = {
        "PATH": surroundings.path,
        "HOME": str(own.home),
        "LANG": surroundings.language,
        **spec.env,
        **secrets,
        "OTTO_WORKSPACE": str(workspace),
        "OTTO_WORKER_NAME": identity.name,
    }
    mark = "\n".join((identity.pipeline_id, identity.stage_id, identity.task_id, str(identity.attempt), spec.repository, spec.commit))
    return Launch(
        argv=[os.fsencode(argument) for argument in spec.command],
        env={os.fsencode(name): os.fsencode(value) for name, value in env.items()},
        workspace=os.fsencode(workspace),
        working_directory=os.fsencode(spec.working_directory),
        timeout=spec.timeout,
        grace=spec.stop_grace,
        memory=spec.memory_bytes,
        cores=math.ceil(spec.cpu_cores),
        repository=os.fsencode(spec.repository),
        commit=os.fsencode(spec.commit),
        mark=mark.encode(),
        own=os.fsencode(own.path),
        brand=brand(record.uid),
        descriptors=surroundings.descriptors,
    )
