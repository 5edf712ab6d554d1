"""Bringing a repository into the workspace before the command: constant Git commands of ours, no shell, the request's words only as
arguments.

Into any directory: an empty one, one that a killed checkout left, one that holds a checkout already.
"""

import fcntl
import os
import re
import time

from . import report
from .child import CheckoutFailedError
from .control import UnreadableError, put, read_bytes, write_beside
from .launch import Launch
from .supervision import Supervision

MARK = "otto-checkout"
"""Below .git; a worker of the same workspace may have put anything there."""
LOCKS = (b"index.lock", b"shallow.lock", b"HEAD.lock", b"config.lock", b"packed-refs.lock")
LOCK_SECONDS = 0.05
_FULL_SHA = re.compile(rb"[0-9a-f]{40}([0-9a-f]{24})?")
_SHA = re.compile(rb"[0-9a-f]{4,64}")
_GIT = [
    b"git",
    b"-c",
    b"advice.detachedHead=false",
    b"-c",
    b"init.defaultBranch=main",
    b"-c",
    b"protocol.version=2",
    b"-c",
    b"gc.auto=0",
    b"-c",
    b"maintenance.auto=false",
    b"-c",
    b"http.lowSpeedLimit=1",
    b"-c",
    b"http.lowSpeedTime=60",
]
ENVIRONMENT = {
    b"GIT_ALLOW_PROTOCOL": b"file:git:http:https:ssh",
    b"GIT_TERMINAL_PROMPT": b"0",
}
CONFIGURATION = ("gitconfig", "[safe]\n\tdirectory = *\n")
"""A repository on this machine may belong to someone else; what is fetched from it is data, and is asked for by name.
As a file, because Git takes variables with configuration away from the program that serves a local repository.
"""


def checkout(supervision: Supervision, launch: Launch) -> None:
    """Checks launch.repository out at launch.commit, detached, into the workspace. Returns early when there is a verdict.

    Workers that share the workspace take turns; of one attempt, the first does it.
    Raises CheckoutFailedError, StartFailedError, OSError.
    """
    lock = os.open(launch.workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while not _locked(lock):
            if not supervision.pause(LOCK_SECONDS):
                return
        if not _done_before(launch):
            report.write_whole(os.fsdecode(launch.own), *CONFIGURATION)
            _fetch_and_checkout(supervision, launch, os.path.join(launch.own, os.fsencode(CONFIGURATION[0])))
    finally:
        os.close(lock)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fetch_and_checkout(supervision: Supervision, launch: Launch, configuration: bytes) -> None:
    environment = {**launch.env, **ENVIRONMENT}
    environment.setdefault(b"GIT_CONFIG_GLOBAL", configuration)
    environment.setdefault(b"GIT_SSH_COMMAND", b"ssh -oBatchMode=yes")
    what, shown = launch.commit or b"HEAD", _shown(launch.repository)
    wanted = f"{launch.commit.decode('utf-8', 'replace') or 'the default branch'} of {shown}"

    def git(*arguments: bytes) -> bool:
        status = supervision.run([*_GIT, *arguments], environment, launch.workspace)
        return status == 0

    def need(step: str, *arguments: bytes) -> bool:
        """Whether to go on: the command succeeded, and nothing else ended the worker."""
        status = supervision.run([*_GIT, *arguments], environment, launch.workspace)
        if supervision.verdict is not None:
            return False
        if status != 0:
            raise CheckoutFailedError(f"the checkout of {wanted} failed: {step}", status)
        return True

    supervision.say(f"checking out {wanted}")
    if not need("no Git repository could be made in the workspace", b"init", b"--quiet", b"."):
        return
    for name in LOCKS:
        _remove(os.path.join(launch.workspace, b".git", name))
    if _SHA.fullmatch(launch.commit):
        full = bool(_FULL_SHA.fullmatch(launch.commit))
        single = full and git(b"fetch", b"--quiet", b"--no-tags", b"--depth=1", b"--", launch.repository, what)
        if supervision.verdict is not None:
            return
        if not single:
            if full:
                supervision.say("the repository does not give this commit alone; fetching all of it")
            everything = (b"+refs/heads/*:refs/remotes/origin/*", b"+refs/tags/*:refs/tags/*")
            deepen = [b"--unshallow"] if _exists(launch.workspace, b".git/shallow") else []
            if not need("it could not be fetched", b"fetch", b"--quiet", *deepen, b"--", launch.repository, *everything):
                return
        target = b"FETCH_HEAD" if single else what
        if not single and not git(b"cat-file", b"-e", what + b"^{commit}"):
            target = b"refs/remotes/origin/" + what
    else:
        if not need("it could not be fetched", b"fetch", b"--quiet", b"--no-tags", b"--depth=1", b"--", launch.repository, what):
            return
        target = b"FETCH_HEAD"
    if need("there is no such commit", b"checkout", b"--quiet", b"--force", b"--detach", target, b"--"):
        _note_done(launch)


def _note_done(launch: Launch) -> None:
    directory = os.fsdecode(os.path.join(launch.workspace, b".git"))
    put(directory, write_beside(directory, MARK, launch.mark), MARK)


def _done_before(launch: Launch) -> bool:
    """Whether another worker of the attempt did it, not longer ago than an attempt can last."""
    directory = os.fsdecode(os.path.join(launch.workspace, b".git"))
    try:
        if read_bytes(directory, MARK, len(launch.mark)) != launch.mark:
            return False
        return time.time() - os.lstat(os.path.join(directory, MARK)).st_mtime < launch.timeout
    except (UnreadableError, OSError):
        return False


def _exists(workspace: bytes, name: bytes) -> bool:
    return os.path.exists(os.path.join(workspace, name))


def _remove(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _shown(repository: bytes) -> str:
    """The repository without the password that its URL may hold."""
    return re.sub(r"(?<=://)[^/?#]*@", "", repository.decode("utf-8", "replace"))
