"""Generates the Python code of the wire contract from protos/; with --check, compares instead of writing.

The generators are grpcio-tools and mypy-protobuf at the versions that requirements.lock pins. grpcio-tools writes an empty
`_pb2_grpc.py` for a file without services: those are left out.
"""

import argparse
import filecmp
import os
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[3]
PROTOS = ROOT / "protos"
GENERATED = ROOT / "libs" / "contracts" / "src"
CHARTER = '"""The wire contract, generated from protos/ by `make generate`. Nothing in this package is written by hand."""\n'


def generate(target: Path) -> None:
    """Writes the generated package into `target`; raises SystemExit when the generator refuses."""
    sources = sorted(PROTOS.rglob("*.proto"))
    names = [str(path.relative_to(PROTOS)) for path in sources]
    well_known = str(files("grpc_tools") / "_proto")
    # the plugins lie beside the interpreter, which need not be on PATH
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    common = ["protoc", f"-I{PROTOS}", f"-I{well_known}"]
    with_services = [n for n, path in zip(names, sources, strict=True) if "\nservice " in path.read_text()]
    for options, inputs in (
        ([f"--python_out={target}", f"--mypy_out=quiet:{target}"], names),
        ([f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}"], with_services),
    ):
        if protoc.main([*common, *options, *inputs]) != 0:
            raise SystemExit("protoc failed; its message stands above")
    package = target / "ottoscaler" / "v1"
    (target / "ottoscaler" / "__init__.py").write_text(CHARTER)
    (package / "__init__.py").write_text(CHARTER)
    (target / "ottoscaler" / "py.typed").write_text("")


def differences(fresh: Path, committed: Path) -> list[str]:
    """The files that are not the same on both sides, relative to them."""

    def tree(root: Path) -> set[str]:
        return {
            str(p.relative_to(root))
            for p in root.rglob("*")
            if p.is_file() and "__pycache__" not in p.parts and p.suffix in {".py", ".pyi", ".typed"}
        }

    both = tree(fresh) | tree(committed)
    return sorted(
        name
        for name in both
        if not (fresh / name).exists() or not (committed / name).exists() or not filecmp.cmp(fresh / name, committed / name, shallow=False)
    )


def main() -> int:
    """Runs the command; the exit code is 1 when --check found a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare with what is committed and write nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        stale = differences(fresh, GENERATED)
        if arguments.check:
            for name in stale:
                print(f"libs/contracts/src/{name} is not what protos/ says: run `make generate`", file=sys.stderr)
            return 1 if stale else 0
        for name in stale:
            target = GENERATED / name
            if (fresh / name).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((fresh / name).read_bytes())
            else:
                target.unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
