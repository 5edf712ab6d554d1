"""What ottoctl's exit code says. Scripts rely on these; the README lists them."""

COMPLETED = 0
FAILED = 1
USAGE = 2
CANCELLED = 3
UNREACHABLE = 4
SERVICE_ERROR = 5
INTERRUPTED = 130
BROKEN_PIPE = 141
