"""The container that checks a repository out before the worker's own runs.

Its script is the same for every worker: what was asked for comes as variables, which the shell only ever expands within quotes, and Git
gets it behind `--`. It does in a shell what the process backend's supervisor does in Python; needed are `sh` and `git`, and `flock`
where several workers of an attempt share a workspace.
"""

import hashlib
import math

from otto_scaler.worker import WorkerSpec

SCRIPT = r"""
set -u
say() { printf 'otto: %s\n' "$1"; }
shown=$(printf '%s' "$OTTO_REPOSITORY" | sed 's|://[^/]*@|://|')
wanted="${OTTO_COMMIT_SHA:-the default branch} of $shown"
fail() {
  status=$?
  [ "$status" -ne 0 ] || status=1
  printf 'the checkout of %s failed: %s' "$wanted" "$1" > "${OTTO_TERMINATION_LOG:-/dev/termination-log}" 2>/dev/null
  say "the checkout failed: $1"
  exit "$status"
}
child=
trap 'trap "" TERM; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null; exit 143' TERM
run() { "$@" & child=$!; wait "$child"; status=$?; child=; return "$status"; }
quiet() { run git -c advice.detachedHead=false -c init.defaultBranch=main -c protocol.version=2 -c gc.auto=0 -c maintenance.auto=false \
  -c http.lowSpeedLimit=1 -c http.lowSpeedTime=60 "$@"; }
command -v git >/dev/null || { (exit 127); fail "there is no git in the image of the checkout"; }
cd "$OTTO_WORKSPACE" || fail "the workspace can't be entered"
if [ -z "${GIT_CONFIG_GLOBAL:-}" ]; then
  GIT_CONFIG_GLOBAL="$HOME/.otto-gitconfig"
  printf '[safe]\n\tdirectory = *\n' > "$GIT_CONFIG_GLOBAL" || fail "HOME can't be written to"
  export GIT_CONFIG_GLOBAL
fi
export GIT_ALLOW_PROTOCOL=file:git:http:https:ssh GIT_TERMINAL_PROMPT=0 GIT_SSH_COMMAND="${GIT_SSH_COMMAND:-ssh -oBatchMode=yes}"
if command -v flock >/dev/null; then
  exec 9<. && run flock 9 || fail "the workspace can't be locked"
fi
mark=.git/otto-checkout
if [ -f "$mark" ] && [ ! -L "$mark" ] && [ "$(head -c 200 "$mark")" = "$OTTO_CHECKOUT_MARK" ] \
  && [ -n "$(find "$mark" -mmin "-$OTTO_CHECKOUT_MINUTES")" ]; then exit 0; fi
say "checking out $wanted"
quiet init --quiet . || fail "no Git repository could be made in the workspace"
rm -f .git/index.lock .git/shallow.lock .git/HEAD.lock .git/config.lock .git/packed-refs.lock
target=FETCH_HEAD
one() { quiet fetch --quiet --no-tags --depth=1 -- "$OTTO_REPOSITORY" "${OTTO_COMMIT_SHA:-HEAD}"; }
all() {
  deepen=
  [ ! -f .git/shallow ] || deepen=--unshallow
  quiet fetch --quiet $deepen -- "$OTTO_REPOSITORY" '+refs/heads/*:refs/remotes/origin/*' '+refs/tags/*:refs/tags/*' \
    || fail "it could not be fetched"
  target=$OTTO_COMMIT_SHA
  quiet cat-file -e "$target^{commit}" 2>/dev/null || target="refs/remotes/origin/$OTTO_COMMIT_SHA"
}
case "$OTTO_COMMIT_SHA" in
  *[!0-9a-f]*|''|?|??|???) one || fail "it could not be fetched" ;;
  *)
    length=${#OTTO_COMMIT_SHA}
    if [ "$length" -eq 40 ] || [ "$length" -eq 64 ]; then
      one || { say "the repository does not give this commit alone; fetching all of it"; all; }
    else
      all
    fi ;;
esac
quiet checkout --quiet --force --detach "$target" -- || fail "there is no such commit"
rm -rf "$mark"
printf '%s' "$OTTO_CHECKOUT_MARK" > "$mark.new" && mv -f "$mark.new" "$mark" || fail "the workspace can't be written to"
"""
COMMAND = ("sh", "-c", SCRIPT)


def variables(spec: WorkerSpec) -> dict[str, str]:
    """What the script is told beside what the worker is told: by which mark it knows that another worker of the attempt has been here,
    and for how many minutes that holds, which is not longer than an attempt can last.
    """
    identity = spec.identity
    parts = (identity.pipeline_id, identity.stage_id, identity.task_id, str(identity.attempt), spec.repository, spec.commit)
    mark = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return {"OTTO_CHECKOUT_MARK": mark, "OTTO_CHECKOUT_MINUTES": str(math.ceil(spec.timeout / 60) + 1)}
