"""otto-handler's stack, `@grpc/grpc-js` with our protos loaded at run time, against a running standalone."""

from pathlib import Path

import pytest

from ..node.script import needs_node, running
from .conftest import Standalone

pytestmark = [needs_node, pytest.mark.slow]


async def test_the_health_page(standalone: Standalone, tmp_path: Path) -> None:
    """GetWorkerStatus with three empty strings is answered."""
    async with running("health.js", standalone.address, report=tmp_path / "report") as script:
        assert (await script.line(), await script.ended()) == ("OK 0", 0), script.report
