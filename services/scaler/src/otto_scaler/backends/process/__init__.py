"""The process backend: a worker is a process group of this machine, under a supervisor program that outlives the service.

`directory` is a worker's place on disk, which is all its state; `environment` what the worker gets to see; `processes` starts supervisors
and follows
them; `workspaces` keeps shared directories; `backend` puts these together behind the WorkerBackend Protocol. `supervisor` is a program of
its own.
"""
