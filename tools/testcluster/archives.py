"""Writes image archives in the format of `docker save`, which docker, containerd, kind and buildah read."""

import hashlib
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """An image: the names it has, tar files as its layers, lowest first, and what OCI's image configuration says under `config`."""

    names: Sequence[str]
    layers: Sequence[Path]
    config: Mapping[str, object] = field(default_factory=dict)


def layer(path: Path, programs: Mapping[str, Path | str]) -> Path:
    """Write a layer: where in the image → a program here, or the target of a symbolic link. The same content gives the same bytes."""
    with tarfile.open(path, "w") as tar:
        for inside, source in programs.items():
            info = tarfile.TarInfo(inside)
            if isinstance(source, str):
                info.type, info.linkname = tarfile.SYMTYPE, source
                tar.addfile(info)
            else:
                info.size, info.mode = source.stat().st_size, 0o755
                with source.open("rb") as file:
                    tar.addfile(info, file)
    return path


def write(path: Path, images: Sequence[Image]) -> Path:
    """Write the images into one archive; a layer that several have is in it once."""
    digests = {layer: _digest(layer) for image in images for layer in image.layers}
    manifest = []
    with tarfile.open(path, "w") as tar:
        for digest, source in {digest: source for source, digest in digests.items()}.items():
            tar.add(source, f"{digest}.tar", filter=_nobodys)
        for image in images:
            config = json.dumps(
                {
                    "architecture": ARCHITECTURES[platform.machine()],
                    "os": "linux",
                    "config": {"Env": [PATH], **image.config},
                    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digests[layer]}" for layer in image.layers]},
                }
            ).encode()
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            _add(tar, name, config)
            manifest.append({"Config": name, "RepoTags": list(image.names), "Layers": [f"{digests[layer]}.tar" for layer in image.layers]})
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, BytesIO(data))


def _nobodys(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info
