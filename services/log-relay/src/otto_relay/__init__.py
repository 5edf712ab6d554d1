"""The log-relay: takes in every line that workers write, keeps it in a spool on disk, gives it to any number of readers at any speed.

What lives here: the spool, who is known, how lines come in (followed from a source, or pushed) and how they go out. It decides nothing
about workers or pipelines; it learns of them from the scaler and the executor, over gRPC. Domain modules import the standard library and
each other only; gRPC and generated code stay in `service`, `translate`, the clients `workers`, `pipelines` and `handler_client`, and
`app`. It imports no other service.
"""
