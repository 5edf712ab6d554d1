"""What we send: objects and patches, encoded. Who sends the same often may encode it once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

Body: TypeAlias = "bytes | Mapping[str, Any] | msgspec.Struct"
"""An object to send: JSON that is sent as it is, or something that becomes it."""

_encoder = msgspec.json.Encoder()


def encode(body: Body) -> bytes:
    """The JSON of a body; bytes are taken for JSON."""
    return body if isinstance(body, bytes) else _encoder.encode(body)


@dataclass(frozen=True, slots=True)
class Patch:
    """A change of an object: its bytes and how the server is to read them."""

    content_type: str
    body: bytes


def merge(change: Body) -> Patch:
    """RFC 7386: objects are merged, everything else is replaced, null removes. The only object-like patch that custom resources take."""
    return Patch("application/merge-patch+json", encode(change))


def strategic(change: Body) -> Patch:
    """Kubernetes' own, for built-in kinds only: as `merge`, but lists with a merge key are merged by it; `$patch: delete` removes."""
    return Patch("application/strategic-merge-patch+json", encode(change))


def json_patch(operations: Sequence[Mapping[str, Any]]) -> Patch:
    """RFC 6902: a list of operations, all or nothing; a `test` that fails is an InvalidError."""
    return Patch("application/json-patch+json", _encoder.encode(operations))
