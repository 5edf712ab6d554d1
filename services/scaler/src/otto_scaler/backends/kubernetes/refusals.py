"""What the API server's errors mean for a worker: refused for good, by a quota, or not possible now. In the server's own words."""

from collections.abc import Iterator
from contextlib import contextmanager

from otto_kubekit.errors import (
    ApiError,
    ConflictError,
    DeadlineError,
    FencedError,
    ForbiddenError,
    KubeError,
    ServerError,
    ThrottledError,
    UnauthorizedError,
    UnreachableError,
)
from otto_scaler.errors import AwayError, BackendError, RefusedError
from otto_scaler.worker import Cause

AGAIN = (ThrottledError, ServerError, UnreachableError, DeadlineError, FencedError)
"""What may be over soon; of a replica that acts no more its process is, and another one is asked."""


def refusal(error: KubeError) -> RefusedError:
    """Why a worker was not created. An admission webhook that refuses, Pod Security and limit ranges are REJECTED."""
    words = said(error)
    if isinstance(error, ForbiddenError) and (error.quota or "failed quota" in error.message):
        return RefusedError(words, Cause.QUOTA)
    for_good = isinstance(error, ApiError) and not isinstance(error, (*AGAIN, ConflictError, UnauthorizedError))
    return RefusedError(words, Cause.REJECTED if for_good else Cause.INTERNAL)


def may_pass(error: KubeError) -> bool:
    """Whether the same call may work when it is made again."""
    return isinstance(error, AGAIN) or (isinstance(error, ConflictError) and error.quota)


def away(error: KubeError, what: str = "") -> AwayError:
    """That it can't be done now; `what` begins the words.

    A server that is about to start, is told by etcd to wait, or asks for a pause itself answers nothing about the worker.
    """
    answered = isinstance(error, ApiError) and error.code not in {429, 503, 504} and "etcdserver" not in error.message
    return AwayError(f"{what}{said(error)}", answered=answered)


def said(error: KubeError) -> str:
    """What the cluster said, for clients: without addresses, which are ours."""
    if isinstance(error, ApiError):
        return f"the cluster refuses it: {error.message or error.reason or error.code}"
    if isinstance(error, DeadlineError):
        return "the cluster does not answer in time"
    if isinstance(error, UnreachableError):
        return "the cluster can't be reached"
    if isinstance(error, FencedError):
        return "this replica does not act any more"
    return "the cluster's answer can't be used"


@contextmanager
def edge(what: str) -> Iterator[None]:
    """An error of the cluster becomes a BackendError: `what` could not be done, and why."""
    try:
        yield
    except KubeError as error:
        raise BackendError(f"{what}: {said(error)}") from error
