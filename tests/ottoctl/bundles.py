"""What is in a support bundle, and whether a secret is."""

import base64
import json
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus


def files(bundle: Path) -> dict[str, bytes]:
    """Names below the archive's one directory, and contents."""
    with tarfile.open(bundle) as archive:
        members = archive.getmembers()
        assert len({member.name.partition("/")[0] for member in members}) == 1
        assert all(member.isfile() and member.mode == 0o600 for member in members)
        return {member.name.partition("/")[2]: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]  # files


def data(found: dict[str, bytes], name: str) -> Any:
    """One of its JSON files."""
    return json.loads(found[name])


def forms(secret: str) -> set[bytes]:
    """How a secret may stand there: as it is, in base64 at each place of a group of three bytes, as in URLs, as in JSON."""
    raw = secret.encode()
    found = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], raw.hex()}
    for shift in range(3):
        whole = base64.b64encode(b"x" * shift + raw)
        inner = whole[4 if shift else 0 : len(whole) // 4 * 4 - 4].decode()
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return {form.encode() for form in found}


def leaks(bundle: Path, secrets: dict[str, str]) -> list[tuple[str, str, bytes]]:
    """Which secrets stand where, in which form; their names in the tar's own headers count too."""
    with tarfile.open(bundle) as archive:
        everything = {**files(bundle), "names": "\n".join(archive.getnames()).encode()}
    return [
        (place, name, form)
        for place, secret in secrets.items()
        for form in forms(secret)
        for name, content in everything.items()
        if form in content
    ]
