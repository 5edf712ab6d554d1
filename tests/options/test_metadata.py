"""The `otto.*` keys of a pipeline's metadata."""

import pytest

from otto_options.metadata import cancels_on_disconnect, fails_fast, metadata_problems
from otto_options.options import Problem


@pytest.mark.parametrize(
    ("value", "cancels"), [("cancel", True), (" Cancel ", True), ("CANCEL\n", True), ("detach", False), ("", False), ("cancelled", False)]
)
def test_cancel_is_understood_however_it_is_written(value: str, *, cancels: bool) -> None:
    """White space around and the case of letters mean nothing; only `cancel` cancels."""
    assert cancels_on_disconnect({"otto.on_disconnect": value}) is cancels
    assert not cancels_on_disconnect({})


def test_true_is_understood_however_it_is_written() -> None:
    """The same for otto.fail_fast."""
    assert fails_fast({"otto.fail_fast": " TRUE "})
    assert not fails_fast({"otto.fail_fast": "false"})
    assert not fails_fast({})


def test_every_wrong_key_is_named_and_keys_of_others_are_left_alone() -> None:
    """Unknown keys, with what was probably meant, and values that mean nothing."""
    metadata = {"otto.failfast": "true", "otto.on_disconnect": "stop", "otto.fail_fast": "true", "build": "17", "ottoman": "x"}
    assert metadata_problems(metadata) == [
        Problem("otto.failfast", "is no option; did you mean otto.fail_fast?"),
        Problem("otto.on_disconnect", "'stop' is neither cancel nor detach"),
    ]
