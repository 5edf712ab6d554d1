"""How workers are run: one Protocol, `WorkerBackend`, and what implements it.

Whatever stands above here (fleet, service) does not know which one it has. `process` runs a worker as a local process group; a cluster's
runs it as a pod. A backend keeps its workers' state where it survives this process, and may import the domain (`worker`, `errors`) and
the libraries.
"""

from otto_scaler.backends.protocol import Gone, Observation, Seen, Synced, WorkerBackend

__all__ = ["Gone", "Observation", "Seen", "Synced", "WorkerBackend"]
