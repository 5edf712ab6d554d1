"""Which Kubernetes object a run is kept in: a name for any id."""

import hashlib
import re

_PLAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""What may be an object's name, a label's value and a part of other names as it is."""
_HASHED = re.compile(r".*-[0-9a-f]{12}")
_SLUG_CHARACTERS = 40


def object_name(pipeline_id: str) -> str:
    """The name of the run's object: the id itself if that can be one, otherwise what is left of it and a hash. Never one name for two ids.

    An id that looks like such a name is hashed too, so that nobody's id is the name of another id.
    """
    if _PLAIN.fullmatch(pipeline_id) and not _HASHED.fullmatch(pipeline_id):
        return pipeline_id
    return hashed_name(pipeline_id)


def hashed_name(pipeline_id: str) -> str:
    """The name with a hash: for ids that can't be names, and for one whose name is that of somebody else's object."""
    slug = re.sub(r"[^a-z0-9]+", "-", pipeline_id.lower()).strip("-")[:_SLUG_CHARACTERS].strip("-") or "run"
    return f"{slug}-{hashlib.sha256(pipeline_id.encode()).hexdigest()[:12]}"
