"""Who may do what in a namespace, from the Roles and RoleBindings in it. The fake refuses nobody by them: it only answers reviews."""

from typing import Any

from otto_kubekit.testing.resources import ROLE_BINDINGS, ROLES
from otto_kubekit.testing.storage import Object, Storage

_ACCOUNT = "system:serviceaccount:"


def reviewed(storage: Storage, namespace: str, review: Object) -> Object:
    """The answer to a LocalSubjectAccessReview."""
    spec = review.get("spec", {})
    user, groups = spec.get("user", ""), set(spec.get("groups") or [])
    wanted = spec.get("resourceAttributes", {})
    for binding in storage.all(ROLE_BINDINGS, namespace):
        if any(_is(subject, user, groups, namespace) for subject in binding.get("subjects") or []):
            role = storage.get(ROLES, namespace, binding["roleRef"]["name"]) if binding["roleRef"]["kind"] == "Role" else None
            if role is not None and any(_covers(rule, wanted) for rule in role.get("rules") or []):
                reason = f'RBAC: allowed by RoleBinding "{binding["metadata"]["name"]}/{namespace}"'
                return {**review, "status": {"allowed": True, "reason": reason}}
    return {**review, "status": {"allowed": False}}


def _is(subject: Object, user: str, groups: set[str], namespace: str) -> bool:
    if subject["kind"] == "ServiceAccount":
        return user == f"{_ACCOUNT}{subject.get('namespace', namespace)}:{subject['name']}"
    return subject["name"] == user if subject["kind"] == "User" else subject["name"] in groups


def _covers(rule: Object, wanted: dict[str, Any]) -> bool:
    resource = wanted.get("resource", "") + (f"/{wanted['subresource']}" if wanted.get("subresource") else "")
    asked = (("apiGroups", wanted.get("group", "")), ("resources", resource), ("verbs", wanted.get("verb", "")))
    named = rule.get("resourceNames")
    return all({value, "*"} & set(rule.get(field) or []) for field, value in asked) and (not named or wanted.get("name") in named)
