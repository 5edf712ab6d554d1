"""Measures a release on a real cluster from outside: `make bench-cluster`.

Beside each figure that a bare cluster can have too stands its floor: the same pods created in the same run with nothing of ours, in turns
with ours. What takes thousands of pods runs on fake nodes (kwok), which end pods as soon as they are asked to run them. It installs a
release of its own for every run, and may use the wire contract, kubekit as client of the API server, and tests/installed; no service.
"""
