"""Whether cluster tests are to be quick (`make test-cluster QUICK=1`, as CI has them): they do the same, less often or at fewer moments."""

import os

import pytest

QUICK = bool(os.environ.get("OTTO_TEST_QUICK"))
unless_quick = pytest.mark.skipif(QUICK, reason="takes minutes: make test-cluster without QUICK=1")
