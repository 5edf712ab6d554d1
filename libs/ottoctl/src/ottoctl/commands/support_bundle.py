"""`ottoctl support-bundle`: one archive for whoever is to help, without secrets."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottoctl.cluster.place import ClusterOption, ContextOption, KubeconfigOption, NamespaceOption, Place, ReleaseOption, asked_for
from ottoctl.context import OutputOption, Shared, chosen, shared
from ottoctl.render import Output, dump

if TYPE_CHECKING:
    from ottoctl.bundle.collecting import Found
    from ottoctl.bundle.masking import Masker

MIB = 1 << 20


def support_bundle(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Where to write it.", show_default="ottoscaler-support-TIME.tar.gz")
    ] = None,
    cluster: ClusterOption = False,
    kubeconfig: KubeconfigOption = "",
    kube_context: ContextOption = "",
    namespace: NamespaceOption = "",
    release: ReleaseOption = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to gather in; what has not come by then is left out.")] = 120.0,
    max_size: Annotated[int, typer.Option(min=1, help="MiB that it may hold before it is compressed.")] = 50,
    output: OutputOption = None,
) -> None:
    """Write one archive with what somebody needs who is to help: versions, settings, states, logs and metrics of Ottoscaler, no secrets.

    Changes nothing. What it holds, and what could not be had, stands in its MANIFEST.json and in the answer.
    """
    from importlib.metadata import version

    from ottoctl.bundle.archive import masked, write
    from ottoctl.bundle.masking import Masker
    from ottoctl.doctor.machine import size
    from ottoctl.terminal import harmless

    path = file or Path(f"ottoscaler-support-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz")
    place = asked_for(cluster, kubeconfig, kube_context, namespace, release)
    masker = Masker()
    began = time.monotonic()
    items, missing = asyncio.run(_collected(shared(context), place, masker, timeout))
    files = masked(items, missing, masker, max_size * MIB)
    manifest = write(
        path,
        files,
        {
            "ottoctl": version("ottoctl"),
            "written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.monotonic() - began, 1),
            "address": masker.text(shared(context).address),
            "masked": masker.count,
            "missing": [{key: masker.text(words) for key, words in asdict(one).items()} for one in missing],
        },
    )
    form = chosen(context, output)
    if form is not Output.TABLE:
        dump({"file": str(path), **manifest}, form)
        return
    for entry in manifest["files"]:
        print(f"{size(entry['bytes']):>12}  {harmless(entry['name'])}: {harmless(entry['about'])}" + (", cut" if entry["cut"] else ""))
    for one in manifest["missing"]:
        print(f"{'missing':>12}  {harmless(one['name'])}: {harmless(one['why'])}")
    print(f"{path} ({size(path.stat().st_size)}). Secrets are masked in {masker.count} places; look through it before you pass it on.")


async def _collected(options: Shared, place: Place | None, masker: "Masker", seconds: float) -> Any:
    from ottoctl.bundle.collecting import Part, collect
    from ottoctl.bundle.machine import machine
    from ottoctl.bundle.services import services

    parts = [Part("doctor", _doctor(options, place)), Part("services", services(options.address))]
    if place is None:
        parts.append(Part("machine", machine(options.address, os.environ, masker)))
    else:
        from ottoctl.bundle.cluster import cluster  # brings kubekit

        parts.append(Part("cluster", cluster(place, os.environ, masker)))
    return await collect(parts, seconds)


async def _doctor(options: Shared, place: Place | None) -> AsyncIterator["Found"]:
    """What doctor finds, as far as it comes in time."""
    from ottoctl.bundle.archive import Item
    from ottoctl.doctor.case import Finding
    from ottoctl.doctor.examination import diagnose

    told: dict[str, Any] = {"findings": [], "facts": {}}
    yield Item("doctor.json", "what ottoctl doctor finds", told)

    def found(check: str, finding: Finding) -> None:
        told["findings"].append({"check": check, "level": str(finding.level), "words": finding.words, "remedy": finding.remedy})

    told["facts"] = (await diagnose(options.address, os.environ, found, place, named=options.named)).facts
