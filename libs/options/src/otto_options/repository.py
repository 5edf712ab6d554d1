"""Which repositories and commits may be handed to Git: what Git would take for an option, a helper program or a pattern is refused."""

import re

MAX_BYTES = 2048
_SCHEMES = ("https", "http", "ssh", "git", "file")
_SCP_LIKE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?!:)[^:].*")
_FORBIDDEN_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock$|\.lock/|/$|\.$|^[-+/]|/\.|^\.")


def repository_problem(repository: str) -> str:
    """Why this can't be checked out from; "" if it can. Whether it is there, only Git can tell."""
    if len(repository.encode()) > MAX_BYTES:
        return f"is longer than {MAX_BYTES} bytes"
    if any(ord(character) < 32 or ord(character) == 127 for character in repository):
        return "holds a control character"
    if repository.startswith("-"):
        return "begins with '-', which Git would take for an option"
    if re.match(r"[A-Za-z0-9+.-]*::", repository):
        return "names a transport helper (like ext::), which is not allowed"
    if "://" in repository:
        scheme, _, rest = repository.partition("://")
        if scheme.lower() not in _SCHEMES:
            return f"{scheme}:// is none of {', '.join(_SCHEMES)}"
        if rest.startswith("-") or not rest or "@-" in rest.partition("/")[0]:
            return "has no host"
        return ""
    if repository.startswith("/") or _SCP_LIKE.fullmatch(repository):
        return ""
    return "is neither a URL (https://…, ssh://…), nor user@host:path, nor an absolute path"


def commit_problem(commit: str) -> str:
    """Why this can't be a commit, branch or tag; "" if it can. Source of the rules: git check-ref-format."""
    if len(commit.encode()) > 255:
        return "is longer than 255 bytes"
    if commit.startswith("-"):
        return "begins with '-', which Git would take for an option"
    if _FORBIDDEN_IN_REF.search(commit) or commit == "@":
        return f"{commit!r} is no commit, branch or tag name"
    return ""
