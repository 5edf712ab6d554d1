"""The pipeline-executor: decides what runs when, and survives any crash. Owns PipelineService.

A functional core (`run`, `attempt`, `retry`, `approval`, `graph`, `progress`) says what a run's next steps are, with the time as a value.
A shell (`conductor`, `runner`, `retention`) stores each step before it acts on it. Workers belong to the scaler and are reached
through its API only (`workers`); the memory of runs is a `stores.RunStore`. The core imports the standard library only; gRPC and
messages live in `service`, `translate`, `translate_request`, `workers` and `app`. No other service may be imported.
"""
