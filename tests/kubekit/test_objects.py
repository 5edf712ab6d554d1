"""What we read of objects is what Kubernetes' own generated models say that there is: the names on the wire, and the types."""

import re
import types
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Union, get_args, get_origin

import kubernetes.client as models
import msgspec
import pytest

from otto_kubekit import kinds, objects
from otto_kubekit.kinds import Kind

MODELLED = {
    kind.name: kind
    for kind in vars(kinds).values()
    if isinstance(kind, Kind) and kind.type is not objects.CustomObject and kind.group != "metrics.k8s.io"  # of which there are no models
}
PLAIN = {str: {"str"}, bytes: {"bytes"}, int: {"int"}, bool: {"bool"}, datetime: {"datetime"}}


def differences(read: Any, told: str, where: str) -> Iterator[str]:
    """Where a type of ours is none that fits the model's, which is written as in its `openapi_types`."""
    if get_origin(read) in (types.UnionType, Union):
        [read] = [each for each in get_args(read) if each is not types.NoneType]
    several = re.fullmatch(r"List\[(.*)\]|Dict\[str, (.*)\]", told)
    if several:
        inside = get_args(read)
        if get_origin(read) is not (tuple if several[1] else dict):
            yield f"{where}: {read} is read, {told} is sent"
        else:
            yield from differences(inside[0] if several[1] else inside[1], several[1] or several[2], where)
    elif isinstance(read, type) and issubclass(read, msgspec.Struct):
        model = getattr(models, told)
        sent = {wire: model.openapi_types[name] for name, wire in model.attribute_map.items()}
        for field in msgspec.structs.fields(read):
            if field.encode_name in sent:
                yield from differences(field.type, sent[field.encode_name], f"{where}.{field.encode_name}")
            else:
                yield f"{where}.{field.encode_name}: {told} has none"
    elif told not in PLAIN.get(read, ()):
        yield f"{where}: {read} is read, {told} is sent"


@pytest.mark.parametrize("name", MODELLED)
def test_fields_and_types_are_those_of_kubernetes(name: str) -> None:
    """A field that nobody sends would always have its default, and a type that is another one would break every read."""
    model = "CoreV1Event" if name == "Event" else f"V1{name}"
    assert list(differences(MODELLED[name].type, model, name)) == []
    assert {"Pod", "Lease", "PersistentVolumeClaim", "TokenReview"} <= MODELLED.keys()


def test_what_does_not_fit_is_told() -> None:
    """The comparison sees a field that is not there, and types that are others."""

    class Wrong(objects.Part, frozen=True):
        holder: str = ""
        renew_time: str = ""
        lease_transitions: tuple[int, ...] = ()

    assert len(list(differences(Wrong, "V1LeaseSpec", "spec"))) == 3
