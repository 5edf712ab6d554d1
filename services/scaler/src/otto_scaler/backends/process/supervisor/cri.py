"""A worker's output as a log file in the format of the container runtime interface.

One record a line: `<RFC 3339 time with nanoseconds, UTC> <stdout|stderr> <F|P> <bytes>`; P is a part of a line that goes on in the next
record of its
stream. Source of the format and of the 16 KiB: the Kubernetes design "Container Runtime Interface: Container Logs", and what containerd
writes.
"""

import os
import time

LINE_BYTES = 16 * 1024
MOST_UNWRITTEN = 1024 * 1024
STREAMS = (b"stdout", b"stderr")
_SECOND = 1_000_000_000


class LogFailedError(Exception):
    """The log can't be written now."""


class CriLog:
    """Appends to one log file, and only appends: whoever reads it may have read everything that it held at any time.

    At most LINE_BYTES of each stream wait here for the end of their line. What could not be written is written before anything else once
    that works, so a torn record is followed by nothing but its own rest; of what comes meanwhile, MOST_UNWRITTEN bytes are kept.
    """

    def __init__(self, descriptor: int) -> None:
        """Takes a descriptor that appends; it is this object's to close."""
        self.descriptor = descriptor
        self._unwritten = b""
        self._rest = [b"", b""]
        self._last = 0
        self._second = -1
        self._prefix = b""

    def feed(self, stream: int, chunk: bytes) -> None:
        """Takes in what a stream (0 stdout, 1 stderr) has written. Raises LogFailedError."""
        lines = (self._rest[stream] + chunk).split(b"\n")
        rest = lines.pop()
        now = time.time_ns()
        if lines and max(map(len, lines)) <= LINE_BYTES:
            records = self._plain(now, stream, lines)
        else:
            records = []
            for line in lines:
                self._record(records, now, stream, line)
        while len(rest) > LINE_BYTES:
            records.append(b"%s %s P %s\n" % (self._stamp(now), STREAMS[stream], rest[:LINE_BYTES]))
            rest = rest[LINE_BYTES:]
        self._rest[stream] = rest
        if records:
            self._append(b"".join(records))

    def finish(self) -> None:
        """Writes what waits for the end of its line as a line. Raises LogFailedError."""
        records: list[bytes] = []
        for stream, rest in enumerate(self._rest):
            if rest:
                self._record(records, time.time_ns(), stream, rest)
        self._rest = [b"", b""]
        if records or self._unwritten:
            self._append(b"".join(records))

    def _plain(self, now: int, stream: int, lines: list[bytes]) -> list[bytes]:
        """Records of lines that need no more than one each: as `_record` makes them, all at once unless a second ends among them."""
        first = max(now, self._last + 1)
        last = first + len(lines) - 1
        if first // _SECOND != last // _SECOND:
            return [b"%s %s F %s\n" % (self._stamp(now), STREAMS[stream], line) for line in lines]
        self._stamp(last)
        record = b"%s.%%09dZ %s F %%s\n" % (self._prefix, STREAMS[stream])
        rest = first % _SECOND
        return [record % numbered for numbered in enumerate(lines, rest)]

    def _record(self, records: list[bytes], now: int, stream: int, line: bytes) -> None:
        if len(line) > LINE_BYTES:
            start = 0
            while len(line) - start > LINE_BYTES:
                records.append(b"%s %s P %s\n" % (self._stamp(now), STREAMS[stream], line[start : start + LINE_BYTES]))
                start += LINE_BYTES
            line = line[start:]
        records.append(b"%s %s F %s\n" % (self._stamp(now), STREAMS[stream], line))

    def _stamp(self, now: int) -> bytes:
        """A time that no earlier record has, so that a reader can resume by it."""
        if now <= self._last:
            now = self._last + 1
        self._last = now
        second, rest = divmod(now, _SECOND)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%s.%09dZ" % (self._prefix, rest)

    def _append(self, data: bytes) -> None:
        if self._unwritten:
            data = self._unwritten + (data if len(self._unwritten) + len(data) <= MOST_UNWRITTEN else b"")
        written = 0
        try:
            while written < len(data):
                written += os.write(self.descriptor, data[written:] if written else data)
        except OSError as error:
            raise LogFailedError(f"its log could not be written: {error.strerror}") from error
        finally:
            self._unwritten = data[written:]
