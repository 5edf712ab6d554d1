"""How any service of ours runs: settings, event logs, telemetry, errors as gRPC status, server life cycle, channels, task ownership.

Nothing here knows a proto message, Kubernetes or what a service is for. It imports no other package of this repository.
The OpenTelemetry SDK is imported in `telemetry` only, and only when an endpoint is configured.
"""
