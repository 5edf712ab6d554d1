"""Reading and writing small files in a directory in which somebody else may have put anything: pipes, links, directories, nonsense.

Nothing here waits for anybody, follows a link, or reads more than it should.
"""

import errno
import os
import stat

MOST_BYTES = 16384
_ODD = frozenset((errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EPERM, errno.EISDIR))
"""What opening something that no program of ours has left there can fail with; other errors are the machine's."""
_IN_THE_WAY = frozenset((errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR))


class UnreadableError(Exception):
    """A file is there that no program of ours has left so; `name` is its name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the file {name} in its directory is none of ours")
        self.name = name


def read(directory: str, name: str, most: int = MOST_BYTES) -> str | None:
    """What a file holds; None if it isn't there. Raises UnreadableError; OSError when the machine is at fault."""
    content = read_bytes(directory, name, most)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        raise UnreadableError(name) from None


def read_bytes(directory: str, name: str, most: int) -> bytes | None:
    """As `read`."""
    try:
        descriptor = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in _ODD:
            raise UnreadableError(name) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnreadableError(name)
        parts: list[bytes] = []
        left = most + 1
        while left > 0 and (part := os.read(descriptor, left)):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    if left <= 0:
        raise UnreadableError(name)
    return b"".join(parts)


def number(text: str, most: int, name: str) -> int:
    """A number from 0 to `most`. Raises UnreadableError for anything else, naming the file."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most):
        raise UnreadableError(name)
    return int(text)


def write_beside(directory: str, name: str, content: bytes) -> str:
    """Writes a new file of a name that nobody knows, for `put` or a link; returns its path. Raises OSError, and then leaves nothing."""
    path = os.path.join(directory, f".{name}.{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except PermissionError:
        os.chmod(directory, 0o700)
        descriptor = os.open(path, flags, 0o600)
    try:
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
    return path


def put(directory: str, beside: str, name: str) -> None:
    """Gives a file its name, in the place of whatever has it. Raises OSError, and then leaves nothing."""
    final = os.path.join(directory, name)
    try:
        try:
            os.rename(beside, final)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            os.rename(final, f"{final}.odd-{os.urandom(8).hex()}")
            os.rename(beside, final)
    except OSError:
        try:
            os.unlink(beside)
        except OSError:
            pass  # the first error is the one to tell
        raise
