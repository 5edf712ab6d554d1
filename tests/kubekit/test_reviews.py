"""Who may do what, asked of the server: the fake answers by Roles as a real one does."""

import json
from typing import Any

import pytest

from otto_kubekit.kinds import custom

from .conftest import Kube, until

ROLES = custom("rbac.authorization.k8s.io", "v1", "roles", "Role")
BINDINGS = custom("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
REVIEWS = custom("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview")
SERVICE_ACCOUNTS = custom("", "v1", "serviceaccounts", "ServiceAccount")
RULES = [
    {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["mine"], "verbs": ["update"]},
]


async def allowed(kube: Kube, **attributes: str) -> bool:
    namespace = kube.client.namespace
    spec = {
        "user": f"system:serviceaccount:{namespace}:somebody",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
        "resourceAttributes": {"namespace": namespace, **attributes},
    }
    body = {"apiVersion": REVIEWS.api_version, "kind": REVIEWS.name, "metadata": {"namespace": namespace}, "spec": spec}
    return bool((await kube.client.create(REVIEWS, body)).status.get("allowed"))


async def test_rights_are_those_of_the_role_that_is_bound(kube: Kube) -> None:
    """Verb, resource, subresource and name all count; nothing is allowed that no Role gives."""
    role: dict[str, Any] = {"kind": "Role", "apiVersion": ROLES.api_version, "metadata": {"name": "some"}, "rules": RULES}
    await kube.client.create(ROLES, role)
    assert not await allowed(kube, verb="get", resource="pods")
    binding = {
        "kind": "RoleBinding",
        "apiVersion": BINDINGS.api_version,
        "metadata": {"name": "some"},
        "roleRef": {"apiGroup": ROLES.group, "kind": "Role", "name": "some"},
        "subjects": [{"kind": "ServiceAccount", "name": "somebody", "namespace": kube.client.namespace}],
    }
    await kube.client.create(BINDINGS, binding)
    await until(lambda: allowed(kube, verb="get", resource="pods"), "the binding counts")
    assert await allowed(kube, verb="list", resource="pods", subresource="log")
    assert not await allowed(kube, verb="delete", resource="pods")
    assert not await allowed(kube, verb="get", resource="secrets")
    assert await allowed(kube, verb="update", group="coordination.k8s.io", resource="leases", name="mine")
    assert not await allowed(kube, verb="update", group="coordination.k8s.io", resource="leases", name="another")
    assert not await allowed(kube, verb="update", group="coordination.k8s.io", resource="leases")


@pytest.mark.parametrize("kube", [pytest.param("real", marks=[pytest.mark.cluster, pytest.mark.slow])], indirect=True)
async def test_a_token_is_its_service_accounts_for_its_audience_alone(kube: Kube) -> None:
    """A token that a real cluster has made is that account's, where it is shown to those it was made for; changed, it is nobody's."""
    client, namespace = kube.client, kube.client.namespace
    await client.create(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "caller"}})
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": ["ottoscaler"], "expirationSeconds": 600},
    }
    path = SERVICE_ACCOUNTS.path(namespace, "caller", "token")
    answer = json.loads(await client.transport.call("POST", path, {}, json.dumps(request).encode(), "application/json"))
    token = answer["status"]["token"]
    told = await client.review_token(token, ["ottoscaler"])
    assert told.authenticated
    assert told.audiences == ("ottoscaler",)
    assert told.user.username == f"system:serviceaccount:{namespace}:caller"
    assert f"system:serviceaccounts:{namespace}" in told.user.groups
    assert told.user.uid
    for other, audiences in ((token, ["another"]), (token[:-8] + "AAAAAAAA", ["ottoscaler"])):
        refused = await client.review_token(other, audiences)
        assert not refused.authenticated
        assert refused.error
        assert refused.user.username == ""
