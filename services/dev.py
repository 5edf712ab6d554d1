"""Runs a service and starts it anew when a file of it was saved: the entry point of its image for those who work on it (`make tilt`).

    dev.py MODULE DIRECTORY      runs `python -m MODULE`, whose code is in DIRECTORY

The pod stays meanwhile. One that ends by itself is begun anew too, after AGAIN_SECONDS or when a file is saved: it may have lost its
Lease, or not even start as it was saved.
"""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from watchfiles import PythonFilter, watch

AGAIN_SECONDS = 5.0
STOP_SECONDS = 10.0  # then it is killed, which costs no more than any other kill


def main(module: str, directory: Path) -> int:
    """Runs it until SIGTERM; the exit code is the service's."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    command = [sys.executable, "-m", module]
    process, began = None, 0.0  # begun when its files are watched, so that no save is missed
    for changes in watch(directory, watch_filter=PythonFilter(), stop_event=stopped, rust_timeout=500, yield_on_timeout=True):
        if process and changes:
            sys.stderr.write(f"starting {module} anew: {', '.join(sorted(path for _, path in changes))} changed\n")
            stop(process)
        elif process and (process.poll() is None or time.monotonic() < began + AGAIN_SECONDS):
            continue
        process, began = subprocess.Popen(command), time.monotonic()
    return stop(process) if process else 0


def stop(process: "subprocess.Popen[bytes]") -> int:
    """Ends it, and says with which exit code."""
    process.terminate()
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
