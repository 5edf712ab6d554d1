"""`ottoctl doctor`: what is wrong here and what to do."""

import asyncio
import os
import sys
from typing import Any

import typer

from ottoctl import exit_codes
from ottoctl.cluster.place import ClusterOption, ContextOption, KubeconfigOption, NamespaceOption, ReleaseOption, asked_for
from ottoctl.context import OutputOption, chosen, shared
from ottoctl.render import Output, dump


def doctor(
    context: typer.Context,
    cluster: ClusterOption = False,
    kubeconfig: KubeconfigOption = "",
    kube_context: ContextOption = "",
    namespace: NamespaceOption = "",
    release: ReleaseOption = "",
    output: OutputOption = None,
) -> None:
    """Say what is wrong with the connection, the services, the work and this machine, or a release on a cluster, and what to do.

    Changes nothing. Each line is ok, warn or fail; the exit code is 1 if something failed.
    """
    from ottoctl.doctor.case import Finding, Level
    from ottoctl.doctor.examination import diagnose, healthy
    from ottoctl.terminal import harmless

    form = chosen(context, output)
    findings: list[tuple[str, Finding]] = []
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    colours = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "31;1"}

    def found(check: str, finding: Finding) -> None:
        findings.append((check, finding))
        if form is not Output.TABLE:
            return
        word = f"{finding.level:4}"
        print(
            f"\x1b[{colours[finding.level]}m{word}\x1b[0m" if coloured else word,
            f" {check:10}  {harmless(finding.words)}",
            sep="",
            flush=True,
        )
        if finding.remedy:
            print(f"{'':16}  → {harmless(finding.remedy)}", flush=True)

    place = asked_for(cluster, kubeconfig, kube_context, namespace, release)
    case = asyncio.run(diagnose(shared(context).address, os.environ, found, place, named=shared(context).named))
    if form is not Output.TABLE:
        answer: dict[str, Any] = {
            "address": case.address,
            "healthy": healthy(findings),
            "findings": [{"check": c, "level": str(f.level), "words": f.words, "remedy": f.remedy} for c, f in findings],
            "facts": case.facts,
        }
        dump(answer, form)
    raise typer.Exit(exit_codes.COMPLETED if healthy(findings) else exit_codes.FAILED)
