"""The `otto.*` keys of a pipeline's metadata: what they may be, and what they mean."""

from collections.abc import Mapping

from otto_options.options import Problem
from otto_options.suggestions import Suggestions

ON_DISCONNECT = "otto.on_disconnect"
FAIL_FAST = "otto.fail_fast"
_WORDS = {ON_DISCONNECT: ("cancel", "detach"), FAIL_FAST: ("true", "false")}


def cancels_on_disconnect(metadata: Mapping[str, str]) -> bool:
    """Whether the run is to be cancelled when the caller leaves."""
    return _word(metadata, ON_DISCONNECT) == "cancel"


def fails_fast(metadata: Mapping[str, str]) -> bool:
    """Whether the first failure is to cancel the rest of the run."""
    return _word(metadata, FAIL_FAST) == "true"


def metadata_problems(metadata: Mapping[str, str]) -> list[Problem]:
    """What is wrong with the keys that begin with `otto.`; all others are the client's own."""
    problems = []
    suggestions = Suggestions(_WORDS)
    for key in sorted(metadata):
        if not key.startswith("otto."):
            continue
        words = _WORDS.get(key)
        if words is None:
            problems.append(Problem(key, "is no option" + suggestions.hint(key)))
        elif _word(metadata, key) not in words:
            problems.append(Problem(key, f"{metadata[key]!r} is neither {words[0]} nor {words[1]}"))
    return problems


def _word(metadata: Mapping[str, str], key: str) -> str:
    return metadata.get(key, "").strip().lower()
