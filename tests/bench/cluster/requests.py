"""What a pipeline costs the API server: requests of each service, as they count them themselves."""

from collections import Counter

from .figures import REQUESTS, SERVICES, request_figure
from .pipelines import at_once, run_to_end
from .release import Release, unique

VALUES = ("scaler.settings.finished_ttl=1",)
"""Deletions belong to it, so they are not waited for long."""
PIPELINES = 40
_COUNTED = "otto_kube_request_duration_seconds_count"


async def requests(release: Release, size: float) -> dict[str, float]:
    """Per pipeline, from its request until its worker's pod is gone."""
    count = max(4, round(PIPELINES * size))
    async with release.channel() as channel:
        await run_to_end(channel, unique("first"))
        await release.pods.until(lambda: not release.pods.there)
        before = await _counts(release)
        await at_once(channel, "asks", count)
    await release.pods.until(lambda: not release.pods.there)
    spent = await _counts(release) - before
    known = {request_figure(*request): spent.pop(request, 0.0) / count for request in REQUESTS}
    others = sum(number for (_, _, resource), number in spent.items() if resource != "leases")
    return {**known, "cluster.requests.other": others / count}


async def _counts(release: Release) -> "Counter[tuple[str, str, str]]":
    counts: Counter[tuple[str, str, str]] = Counter()
    for service in SERVICES:
        for (name, labels), value in (await release.samples(service)).items():
            if name == _COUNTED:
                of = dict(labels)
                counts[service, of["verb"], of["resource"]] += int(value)
    return counts
