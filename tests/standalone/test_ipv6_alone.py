"""In a world without IPv4: a network namespace whose loopback is ::1 and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 600.0
"""Far more than they take."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 60)]

ROOT = Path(__file__).resolve().parents[2]
APART = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
IPV6_ALONE = [*APART, "sh", "-ec", 'ip link set lo up; ip address delete 127.0.0.1/8 dev lo; exec "$@"', "sh"]
STANDALONE = [
    "tests/standalone/test_first_pipeline.py",
    "tests/standalone/test_doctor.py::test_a_well_installation_is_all_ok",
    "tests/standalone/test_doctor.py::test_a_service_elsewhere_is_pointed_to_and_said_to_hold_the_state",
]
FRONT_DOOR = [
    f"tests/chart/test_front_door.py::{name}"
    for name in ("test_health_is_the_owners_and_that_of_all_is_everybodys", "test_grpcurl_finds_every_service_and_calls_it")
]


@pytest.mark.parametrize(
    ("host", "tests"),
    [("[::1]", STANDALONE), ("[::]", STANDALONE[:1]), ("[::1]", FRONT_DOOR)],
    ids=["standalone", "standalone on every address", "front door and services"],
)
def test_what_works_with_ipv4_works_with_ipv6_alone(host: str, tests: list[str]) -> None:
    """The tests of a standalone, of ottoctl, and of the front door before the three services pass when all of them listen there."""
    if (
        not shutil.which("ip")
        or subprocess.run([*IPV6_ALONE, "grep", "-q", "lo$", "/proc/net/if_inet6"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no network namespace with IPv6 may be made here (it takes unshare, ip and a kernel with IPv6)")
    command = [*IPV6_ALONE, sys.executable, "-m", "pytest", "-p", "no:xdist", *tests]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, env={**environment, "TEST_HOST": host}, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
