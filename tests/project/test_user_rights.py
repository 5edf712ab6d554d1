"""What tools/user lets somebody do in the namespace that it makes: all that a release there does, as nobody may give away more."""

import os
import shutil
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = """#!/bin/sh
case "$*" in
  *"--filename -"*) cat > applied ;;
  "config view "*) echo '{"clusters": [{"name": "kind", "cluster": {}}]}' ;;
  "create token "*) echo secret ;;
esac
"""


def test_the_role_holds_what_the_chart_gives_its_services(tmp_path: Path) -> None:
    """Each right of `files/rights.yaml` is in it; otherwise its owner could not install a release."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/user", tmp_path / "tools")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl").write_text(KUBECTL)
    (tmp_path / "bin/kubectl").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    subprocess.run([tmp_path / "tools/user", "setup", "mia"], check=True, env=environment, stdout=subprocess.DEVNULL, timeout=60)
    applied = yaml.safe_load_all((tmp_path / "applied").read_text())
    (rules,) = (each["rules"] for each in applied if each["kind"] == "Role")

    def held(group: str, resource: str, verb: str) -> bool:
        return any(
            group in rule["apiGroups"] and {resource, "*"} & set(rule["resources"]) and {verb, "*"} & set(rule["verbs"]) for rule in rules
        )

    rights = yaml.safe_load((ROOT / "charts/ottoscaler/files/rights.yaml").read_text())
    wanted = [(right["group"], right["resource"], verb) for service in rights.values() for right in service for verb in right["verbs"]]
    assert wanted
    assert [right for right in wanted if not held(*right)] == []
