"""Every rendered object is one that Kubernetes takes, and keeps to the rules of the chart."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from otto_runtime.handing import HOP, STOPS
from otto_runtime.replicas import Place
from otto_runtime.server import stop_seconds
from otto_runtime.settings import RuntimeSettings, load
from otto_runtime.telemetry import CALLER
from ottoscaler.v1 import log_streaming_service_pb2, otto_handler_log_service_pb2, ottoscaler_service_pb2, pipeline_service_pb2

from .rendering import CHART, SETS, Object, environment, helm, objects, one, resources, with_values, workload

KUBERNETES = ("1.30", "1.37")
"""The oldest that Chart.yaml allows, and the newest there is."""
FOREIGN = {"GRPCRoute", "HTTPRoute", "PodMonitor", "PrometheusRule"}
"""Kinds that belong to somebody else; tests of their own know what of them is used here."""
HEALTH = "grpc.health.v1.Health"
OWNED = {
    "scaler": (
        *("ottoscaler.v1.OttoscalerService", HEALTH),
        *("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"),
    ),
    "pipeline-executor": ("ottoscaler.v1.PipelineService",),
    "log-relay": ("ottoscaler.v1.LogStreamingService", "ottoscaler.v1.OttoHandlerLogService"),
}
"""Whose each service is behind a Gateway."""
METHODS = {
    service.full_name: [method.name for method in service.methods]
    for file in (
        *(ottoscaler_service_pb2, pipeline_service_pb2, log_streaming_service_pb2, otto_handler_log_service_pb2),
        *(health_pb2, reflection_pb2),
    )
    for service in file.DESCRIPTOR.services_by_name.values()
}
METHODS["grpc.reflection.v1.ServerReflection"] = METHODS["grpc.reflection.v1alpha.ServerReflection"]  # what clients ask for first
MOST_MATCHES = 64
"""Of a rule, in either kind of route."""
SERVICES = ("scaler", "pipeline-executor", "log-relay")
CRDS = sorted((CHART / "crds").glob("*.yaml"))


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", SETS)
def test_every_object_fits_its_schema_strictly(name: str, version: str) -> None:
    """No object has a field that Kubernetes does not know, or of another kind."""
    found = [thing for thing in objects(name) if thing["kind"] not in FOREIGN]
    assert len(found) > 12
    for thing in found:
        kubernetes_validate.validate(thing, version, strict=True)


@pytest.mark.parametrize("crd", CRDS, ids=lambda path: path.stem)
def test_a_crd_fits_its_schema_strictly(crd: Any) -> None:
    """So do the definitions that are installed before everything else."""
    for thing in yaml.safe_load_all(crd.read_text()):
        kubernetes_validate.validate(thing, KUBERNETES[1], strict=True)


def test_the_strict_schemas_notice_a_misspelt_field() -> None:
    """The check above finds what it looks for."""
    thing = workload(objects(), "scaler")
    thing["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(thing, KUBERNETES[1], strict=True)


def route(kind: str) -> Object:
    """The one of a release with all that a route can have."""
    (found,) = (thing for thing in with_values({"gateway.kind": kind}, "everything") if thing["kind"] in {"GRPCRoute", "HTTPRoute"})
    assert (found["kind"], found["apiVersion"]) == (kind, "gateway.networking.k8s.io/v1")
    assert set(found["spec"]) == {"parentRefs", "hostnames", "rules"}
    return found


def matches(kind: str, *fields: str) -> dict[tuple[str, str], Any]:
    """What its rules match, by the Service it goes to and the service whose health is asked for, if any; rules have these fields too."""
    found: dict[tuple[str, str], Any] = {}
    for rule in route(kind)["spec"]["rules"]:
        assert set(rule) == {"matches", "filters", "backendRefs", *fields}
        assert rule["filters"] == [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": sorted((CALLER, HOP, STOPS))}}]
        assert len(rule["matches"]) <= MOST_MATCHES
        (backend,) = rule["backendRefs"]
        assert backend == {"name": backend["name"], "port": 9090}
        for match in rule["matches"]:
            (header,) = match.pop("headers", [{"type": "Exact", "name": "otto-service", "value": ""}])
            assert (header["type"], header["name"]) == ("Exact", "otto-service")
            (only,) = match.values()
            found.setdefault((backend["name"].removeprefix("ci-otto-"), header["value"]), []).append(only)
    assert {f"ci-otto-{component}" for component, _ in found} <= {
        thing["metadata"]["name"] for thing in objects("everything") if thing["kind"] == "Service"
    }
    return found


def test_a_grpc_route_names_every_method_with_its_owner() -> None:
    """Each that there is and no other, with its service, in fields that every gateway with GRPCRoutes knows."""
    wanted = {(component, ""): [(name, method) for name in names for method in METHODS[name]] for component, names in OWNED.items()}
    health = [(HEALTH, method) for method in METHODS[HEALTH]]
    wanted |= {(component, name): health for component, names in OWNED.items() if component != "scaler" for name in names}
    found = matches("GRPCRoute")
    assert all(match["type"] == "Exact" and set(match) == {"type", "service", "method"} for those in found.values() for match in those)
    assert {key: sorted((match["service"], match["method"]) for match in those) for key, those in found.items()} == {
        key: sorted(those) for key, those in wanted.items()
    }


def test_an_http_route_has_every_service_and_no_timeout() -> None:
    """The same by paths, and calls may last as long as they do."""
    found = matches("HTTPRoute", "timeouts")
    assert {rule["timeouts"]["request"] for rule in route("HTTPRoute")["spec"]["rules"]} == {"0s"}
    assert all(match["type"] == "PathPrefix" for those in found.values() for match in those)
    wanted = {(component, ""): sorted(f"/{name}" for name in names) for component, names in OWNED.items()}
    wanted |= {(component, name): [f"/{HEALTH}"] for component, names in OWNED.items() if component != "scaler" for name in names}
    assert {key: sorted(match["value"] for match in those) for key, those in found.items()} == wanted


def pods(found: list[Object]) -> list[tuple[str, Object]]:
    """The pods that the objects make, by the component."""
    return [
        (
            thing["metadata"]["labels"]["app.kubernetes.io/component"],
            thing["spec"]["template"]["spec"] if "template" in thing["spec"] else thing["spec"],
        )
        for thing in found
        if thing["kind"] in {"Deployment", "StatefulSet", "Pod"}
    ]


@pytest.mark.parametrize("name", SETS)
def test_pods_keep_to_the_restricted_profile(name: str) -> None:
    """Not root, no privilege, no capability, seccomp, a read-only root, limits of memory; a token only for who needs it."""
    found = pods(objects(name))
    assert len(found) >= 3
    for component, pod in found:
        own = pod["containers"][0]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["securityContext"]["allowPrivilegeEscalation"] is False
        assert own["securityContext"]["readOnlyRootFilesystem"] is True
        assert own["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert own["resources"]["limits"]["memory"]
        assert own["resources"]["requests"]["cpu"]
        assert pod["automountServiceAccountToken"] is (component in SERVICES)
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


@pytest.mark.parametrize("component", [*SERVICES, "front-door"])
def test_a_node_can_be_drained(component: str) -> None:
    """The PodDisruptionBudget of a component is about its pods alone, and lets one go even if there is only one."""
    found = objects()
    budget = one(found, "PodDisruptionBudget", component)["spec"]
    labels = {other: workload(found, other)["spec"]["template"]["metadata"]["labels"] for other in (*SERVICES, "front-door")}
    assert [other for other in labels if budget["selector"]["matchLabels"].items() <= labels[other].items()] == [component]
    assert set(budget) == {"selector", "maxUnavailable"}
    assert budget["maxUnavailable"] >= 1


def rules(found: list[Object], component: str) -> dict[str, set[str]]:
    """What a component may do, by resource; those that are bound to a name have it behind an `=`."""
    return {
        resource + "".join(f"={name}" for name in rule.get("resourceNames", [])): set(rule["verbs"])
        for rule in one(found, "Role", component)["rules"]
        for resource in resources(rule)
    }


def test_each_service_may_do_what_it_does_and_nothing_else() -> None:
    """Roles are of the namespace, without wildcards; a service can't do another's work."""
    found = objects()
    assert not [thing for thing in found if thing["kind"].startswith("ClusterRole")]
    lease = {"get", "list", "watch", "update"}
    assert rules(found, "scaler") == {
        "pods": {"get", "list", "watch", "create", "patch", "delete"},
        "persistentvolumeclaims": {"get", "list", "create", "patch", "delete"},
        "events": {"list"},
        "leases": {"create"},
        "leases=otto-ottoscaler-scaler": lease,
        "pods.metrics.k8s.io": {"list"},
    }
    assert rules(found, "pipeline-executor") == {
        "pipelineruns": {"get", "list", "watch", "create", "patch", "delete"},
        "pipelineruns/status": {"patch"},
        "leases": {"create"},
        "leases=otto-ottoscaler-pipeline-executor": lease,
    }
    assert rules(found, "log-relay") == {"pods": {"get"}, "pods/log": {"get"}, "secrets": {"get"}}
    assert "secrets" not in rules(objects("small"), "log-relay")


def test_roles_are_bound_to_the_accounts_of_the_pods() -> None:
    """The subject of each RoleBinding is the ServiceAccount that the pod runs under."""
    for found in (objects(), objects("everything")):
        for component in SERVICES:
            (subject,) = one(found, "RoleBinding", component)["subjects"]
            pod = workload(found, component)["spec"]["template"]["spec"]
            assert (subject["name"], subject["namespace"]) == (pod["serviceAccountName"], "ci")


@pytest.mark.parametrize("component", SERVICES)
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"runtime": {"drain_delay": 7.5}},
        {"runtime": {"stop_grace": 45}, "executor.runtime": {"stop_grace": 2}, "relay.runtime": {"drain_delay": 0}},
    ],
    ids=["default", "drain", "grace"],
)
def test_a_pod_is_given_the_time_that_its_stop_may_take(component: str, values: dict[str, Any]) -> None:
    """TerminationGracePeriodSeconds exceeds `stop_seconds` of the settings that the same pod gets, by a few seconds and no more."""
    found = with_values(values)
    runtime = load(RuntimeSettings, "OTTO", environment(found, component))
    grace = workload(found, component)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert 5 <= grace - stop_seconds(runtime) < 6.01


def test_who_stops_at_the_front_door_has_the_time_for_it() -> None:
    """Its pod sleeps before it is told to stop, and is given more time than that."""
    pod = workload(objects("default", "--set", "frontDoor.drainSeconds=77"), "front-door")["spec"]["template"]["spec"]
    assert pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == 77
    assert pod["terminationGracePeriodSeconds"] > 77


@pytest.mark.parametrize("component", SERVICES)
def test_probes_ask_for_the_services_own_health(component: str) -> None:
    """By grpc.health.v1, for the proto service that the pod owns, on the port where it listens."""
    found = objects()
    container = workload(found, component)["spec"]["template"]["spec"]["containers"][0]
    service = {"scaler": "OttoscalerService", "pipeline-executor": "PipelineService", "log-relay": "LogStreamingService"}[component]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["grpc"] == {"port": 9090, "service": f"ottoscaler.v1.{service}"}


@pytest.mark.parametrize(("ipv6", "everywhere"), [(True, "[::]"), (None, "[::]"), (False, "0.0.0.0")])
def test_pods_listen_on_all_of_their_addresses(*, ipv6: bool | None, everywhere: str) -> None:
    """On IPv6 too, unless told not to, also with values kept from before there was a choice. What they advertise is whole in either."""
    found = with_values({"ipv6": ipv6, "executor.replicas": 2})
    for component in SERVICES:
        given = environment(found, component)
        assert (given["OTTO_LISTEN"], given["OTTO_METRICS_LISTEN"]) == (f"{everywhere}:9090", f"{everywhere}:9464")
    for component in ("scaler", "pipeline-executor"):
        for pod_ip, address in (("fd00:10::7", "[fd00:10::7]:9090"), ("10.0.0.7", "10.0.0.7:9090")):
            runtime = load(RuntimeSettings, "OTTO", environment(found, component, pod_ip))
            assert Place("", runtime).advertised() == address


def test_workers_get_one_template_of_all_values() -> None:
    """What values say about workers is in one pod template, with podTemplate merged over it; a change of it makes new scaler pods."""
    found = objects("everything")
    template = json.loads(one(found, "ConfigMap", "workers")["data"]["worker.json"])
    assert template["metadata"] == {
        "labels": {"cost": "other", "of": "workers"},
        "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "more": "yes"},
    }
    worker, docker = template["spec"]["containers"]
    assert worker["image"] == "debian:stable-slim"
    assert worker["volumeMounts"] == [{"name": "cache", "mountPath": "/cache"}]
    assert worker["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert docker == {"name": "docker", "image": "docker:dind"}
    assert template["spec"]["nodeSelector"] == {"pool": "ci"}
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "spec": template["spec"]}
    kubernetes_validate.validate(pod, KUBERNETES[1], strict=True)
    before, after = (
        workload(with_values({"workers.image": image}), "scaler")["spec"]["template"]["metadata"]["annotations"]["checksum/workers"]
        for image in ("a:1", "a:2")
    )
    assert before != after


def test_the_spool_is_never_larger_than_its_disk() -> None:
    """Four fifths of the claim, or of the emptyDir, are kept; a setting of one's own wins."""
    assert environment(objects(), "log-relay")["OTTO_RELAY_RETENTION_BYTES"] == str(10 * 2**30 * 4 // 5)
    assert environment(objects("small"), "log-relay")["OTTO_RELAY_RETENTION_BYTES"] == str(512 * 2**20 * 4 // 5)
    own = with_values({"relay.settings": {"retention_bytes": 2_000_000_000}})
    assert environment(own, "log-relay")["OTTO_RELAY_RETENTION_BYTES"] == "2000000000"


def test_names_stay_within_what_kubernetes_takes() -> None:
    """A long release name is cut; no two objects of a kind share a name."""
    found = [d for d in yaml.safe_load_all(helm("template", "r" * 53, str(CHART), "--namespace", "ci")) if d]
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in found]
    assert len(names) == len(set(names))
    assert max(len(name) for _, name in names) <= 58


def test_services_dial_each_other_by_names_that_are_there() -> None:
    """Every address that a service or the front door is given is the name and port of a Service of this chart."""
    found = objects()
    there = {
        f"{thing['metadata']['name']}:{port['port']}" for thing in found if thing["kind"] == "Service" for port in thing["spec"]["ports"]
    }
    given = {
        value
        for component in SERVICES
        for name, value in environment(found, component).items()
        if name.endswith(("SCALER_ADDRESS", "EXECUTOR_ADDRESS"))
    }
    envoy = yaml.safe_load(one(found, "ConfigMap", "front-door")["data"]["envoy.yaml"])
    for cluster in envoy["static_resources"]["clusters"]:
        address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
        if "socket_address" in address:
            given.add(f"{address['socket_address']['address']}:{address['socket_address']['port_value']}")
    assert len(given) == 3
    assert given <= there


def test_network_policies_let_in_who_has_to_come_in() -> None:
    """With policies on, the front door reaches all three, they reach each other as the architecture says, nobody dials a worker."""
    found = objects("default", "--set", "networkPolicy.enabled=true")

    def callers(component: str) -> set[str]:
        (first, *_) = one(found, "NetworkPolicy", component)["spec"]["ingress"]
        return {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in first.get("from", [])}

    assert callers("scaler") == {"front-door", "pipeline-executor", "log-relay", "scaler"}
    assert callers("pipeline-executor") == {"front-door", "scaler", "log-relay", "pipeline-executor"}
    assert callers("log-relay") == {"front-door"}
    assert callers("front-door") == set()
    assert "ingress" not in one(found, "NetworkPolicy", "workers")["spec"]


def test_helm_test_is_let_in_beside_the_clients_that_are_named() -> None:
    """Its pod is a peer of the front door, and of nothing else; who lets in everybody names nobody."""
    client = {"namespaceSelector": {"matchLabels": {"team": "build"}}}
    found = with_values({"networkPolicy": {"enabled": True, "clients": [client]}})
    [rule, _] = one(found, "NetworkPolicy", "front-door")["spec"]["ingress"]
    assert rule["from"][0] == client
    [test] = [peer["podSelector"]["matchLabels"] for peer in rule["from"][1:]]
    assert test.items() <= one(found, "Pod", "test")["metadata"]["labels"].items()
    without = with_values({"networkPolicy": {"enabled": True, "clients": [client]}, "test.enabled": False})
    assert one(without, "NetworkPolicy", "front-door")["spec"]["ingress"][0]["from"] == [client]
    everybody = with_values({"networkPolicy.enabled": True})
    assert "from" not in one(everybody, "NetworkPolicy", "front-door")["spec"]["ingress"][0]


def test_the_pipeline_of_helm_test_is_one_that_ottoctl_takes(tmp_path: Path) -> None:
    """Ottoctl knows the arguments of the test's pod, and finds nothing wrong with its pipeline."""
    found = objects()
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(one(found, "ConfigMap", "test")["data"]["pipeline.yaml"])
    arguments = one(found, "Pod", "test")["spec"]["containers"][0]["args"]
    for command in ([*arguments, "--help"], ["pipeline", "validate", "--offline", str(pipeline)]):
        done = subprocess.run([sys.executable, "-m", "ottoctl", *command], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
