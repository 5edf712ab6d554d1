"""What Prometheus sees of the traffic with the API server. Labels are bounded: no object's name or namespace is one."""

from collections.abc import Mapping

from prometheus_client import Counter, Histogram

from otto_kubekit.kinds import POD_METRICS

REQUEST_SECONDS = Histogram(
    "otto_kube_request_duration_seconds",
    "Time until the API server's answer began, by its status code; `none`: there was no answer.",
    ("verb", "resource", "code"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
THROTTLED_SECONDS = Counter("otto_kube_request_throttled_seconds", "Time waited because the API server asked to be asked later.")
WATCH_LISTS = Counter(
    "otto_kube_watch_lists",
    "Lists that watches began with: at the start, after 410 Gone (expired), after an interruption, or to reconcile.",
    ("resource", "why"),
)
WATCH_CONNECTIONS = Counter("otto_kube_watch_connections", "Connections that watches have opened.", ("resource",))
WATCH_MISSED = Counter("otto_kube_watch_missed_changes", "Changes that no event has told, but a list.", ("resource",))
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def labels(method: str, path: str, query: Mapping[str, str]) -> tuple[str, str]:
    """Verb and resource of a request, as Kubernetes names them: `list` and `pods`, `get` and `pods/log`; with its group where the
    API server only hands on what somebody else answers, or fails to.
    """
    parts = path.strip("/").split("/")
    group = f".{POD_METRICS.group}" if parts[:2] == ["apis", POD_METRICS.group] else ""
    parts = parts[2:] if parts[0] == "api" else parts[3:] if parts[0] == "apis" else []
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    resource = "/".join(parts[::2]) + group if parts else "none"
    if method == "GET":
        return ("watch" if query.get("watch") == "true" else "get" if len(parts) != 1 else "list"), resource
    return ("deletecollection" if method == "DELETE" and len(parts) == 1 else _VERBS.get(method, method.lower())), resource
