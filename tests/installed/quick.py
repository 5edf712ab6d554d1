"""Whether tests are to be quick (`make test-cluster QUICK=1`, as CI has them): the same is done then, less often or at fewer moments."""

import os

QUICK = bool(os.environ.get("OTTO_TEST_QUICK"))
