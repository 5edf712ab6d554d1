"""FakeCluster: an API server in this process, for tests. It passes the same contract tests as a real one (tests/kubekit).

    cluster     FakeCluster: start it, get a client, set the stage
    resources   the kinds that it serves
    storage     objects, versions, history: what etcd and the watch cache are
    verbs       create, get, list, replace, patch, delete as the API server does them
    patching    merge, strategic, JSON patch, apply
    selectors   labels and fields
    server      HTTP: routes, watches, logs
    faults      what it can be told to do wrong
    kubelet     pods that run, by script or as local processes, and their logs
    reviewing   who may do what, by Roles
    controllers garbage collection and the binding of claims

Nothing here is for production, and nothing of it knows Ottoscaler.
"""

from otto_kubekit.testing.cluster import FakeCluster
from otto_kubekit.testing.faults import Faults
from otto_kubekit.testing.kubelet import Script, local_process

__all__ = ["FakeCluster", "Faults", "Script", "local_process"]
