"""Who may do what, asked of the server: the fake answers by Roles as a real one does."""

from typing import Any

from otto_kubekit.kinds import custom

from .conftest import Kube, until

ROLES = custom("rbac.authorization.k8s.io", "v1", "roles", "Role")
BINDINGS = custom("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
REVIEWS = custom("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview")
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
