"""PipelineRun objects in a namespace: the calls that the store needs, each with a deadline, and what their failures mean for runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from otto_executor.errors import RunGoneError, StoreUnavailableError, TooLargeToStoreError
from otto_executor.stores.pipelinerun import WATCHED, WHOLE, SeenRun, WholeRun
from otto_kubekit.bodies import merge
from otto_kubekit.client import Client
from otto_kubekit.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ForbiddenError,
    KubeError,
    NotFoundError,
    UnauthorizedError,
)
from otto_kubekit.watching import Added, Deleted, Interrupted, Modified, Synced, Watching, forever

log = logging.getLogger(__name__)
PATIENCE = 15.0
"""Seconds for one call: whoever waits for a save sees why it fails before a minute is over."""
PAGE = 100
"""Objects in a page of a list: 20 MB where all are as large as a run of 100 stages with 100 workers each."""
RECONCILE = 1800.0
"""Seconds between full lists that make sure that no event was lost; each reads all runs."""
TRIES = 5
REMEDY = "See that the API server answers"
_TOO_LARGE = ("too large", "larger than max", "limit is", "Too long")
"""What etcd, its client, and API servers say of a request over their limits, with codes that differ."""


class Place(Protocol):
    """Where an object was seen, and in which version."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def uid(self) -> str:
        """Which of those that ever had that name."""

    @property
    def resource_version(self) -> str:
        """Its version."""


class RunObjects:
    """The objects. Every method raises StoreUnavailableError when the API server can't be asked now, those that write
    TooLargeToStoreError for what it will never take.
    """

    def __init__(self, client: Client) -> None:
        """In the client's namespace."""
        self._client = client

    async def get(self, name: str) -> WholeRun | None:
        """The object as it is; None if there is none."""
        try:
            return await self._client.get(WHOLE, name, timeout=PATIENCE)
        except NotFoundError:
            return None
        except KubeError as error:
            raise unavailable(error) from error

    async def create(self, name: str, body: Mapping[str, Any]) -> tuple[WholeRun, bool]:
        """The object of that name and whether it was made by this call; where that is not answered, the one that is there then."""
        try:
            return await self._client.create(WHOLE, body, timeout=PATIENCE), True
        except AlreadyExistsError as error:
            cause: KubeError = error
        except KubeError as error:
            if not error.maybe_done or _too_large(error):
                raise _not_written(error) from error
            cause = error
        found = await self.get(name)
        if found is None:
            raise unavailable(cause) from cause
        return found, False

    async def change(self, place: Place, change: Mapping[str, Any], subresource: str, done: Callable[[WholeRun], bool]) -> WholeRun:
        """The object with a merge patch applied, provided that nobody changed what matters since it was seen in `place`.

        `done` is given the object where somebody has changed something, and says whether the patch has been applied already; what it
        raises is raised. Raises RunGoneError.
        """
        version = place.resource_version
        for _ in range(TRIES):
            patch = merge({**change, "metadata": {**change.get("metadata", {}), "resourceVersion": version}})
            try:
                return await self._client.patch(WHOLE, place.name, patch, subresource=subresource, timeout=PATIENCE)
            except NotFoundError as error:
                raise RunGoneError(place.name) from error
            except ConflictError:
                there = await self.get(place.name)
                if there is None or there.metadata.uid != place.uid:
                    raise RunGoneError(place.name) from None
                if done(there):
                    return there
                version = there.metadata.resource_version
            except KubeError as error:
                raise _not_written(error) from error
        raise StoreUnavailableError("the cluster's memory of runs changes too fast", f"{place.name}: conflicts again and again", REMEDY)

    async def delete(self, place: Place) -> bool:
        """Asks for the object's end; False if it is gone, or another one has its name."""
        try:
            await self._client.delete(WHOLE, place.name, uid=place.uid, propagation="Background", timeout=PATIENCE)
        except (NotFoundError, ConflictError):
            return False
        except KubeError as error:
            raise unavailable(error) from error
        return True

    async def watch(self) -> AsyncIterator[Added[SeenRun] | Modified[SeenRun] | Deleted[SeenRun] | Synced | Interrupted]:
        """All objects, then every change, for ever."""
        async with aclosing(forever(self._client, WATCHED, Watching(page_size=PAGE, reconcile=RECONCILE))) as seen:
            async for change in seen:
                yield change
                await asyncio.sleep(0)  # a list of thousands shall hold nobody up


def _too_large(error: KubeError) -> bool:
    return isinstance(error, ApiError) and any(words in error.message for words in _TOO_LARGE)


def _not_written(error: KubeError) -> StoreUnavailableError:
    """What a failed write means, in words for clients."""
    failure = unavailable(error)
    failure.maybe_done = error.maybe_done
    return failure


def unavailable(error: KubeError) -> StoreUnavailableError:
    """What a failed call means, in words for clients."""
    if _too_large(error):
        return TooLargeToStoreError(str(error))
    if isinstance(error, ForbiddenError | UnauthorizedError):
        words, remedy = "the cluster does not let the executor use its PipelineRuns", "Give it the rights of the chart's Role"
    elif isinstance(error, NotFoundError):
        words, remedy = "the cluster does not know PipelineRuns", "Install the CRD pipelineruns.ottoscaler.io"
    elif isinstance(error, ApiError) and error.code < 429:
        words, remedy = "the cluster does not take what is to be stored", "Update the CRD pipelineruns.ottoscaler.io to this version's"
    else:
        words, remedy = "the cluster's API server can't be reached", REMEDY
    return StoreUnavailableError(words, str(error), remedy)
