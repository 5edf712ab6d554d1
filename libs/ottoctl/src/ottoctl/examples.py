"""Examples for `--help`, by command. A test reads each as ottoctl reads its arguments, so that none is wrong."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": ("ottoctl pipeline run ci.yaml --repo . --sha HEAD", "ottoctl status", "ottoctl doctor"),
    "pipeline": ("ottoctl pipeline run ci.yaml", "ottoctl pipeline list --state running"),
    "pipeline run": (
        "ottoctl pipeline run ci.yaml --repo . --sha HEAD",
        "ottoctl pipeline run ci.yaml --id nightly-1 --set VERSION=1.2 --set test:DEBUG=1",
        "ottoctl pipeline run --type full --detach",
        "ottoctl --patience 600 pipeline run ci.yaml --no-logs",
    ),
    "pipeline rerun": ("ottoctl pipeline rerun nightly-1", "ottoctl pipeline rerun nightly-1 --failed-only --id nightly-2"),
    "pipeline watch": ("ottoctl pipeline watch nightly-1", "ottoctl pipeline watch nightly-1 --after 20 --logs"),
    "pipeline list": ("ottoctl pipeline list", "ottoctl pipeline list --state failed --state cancelled --limit 10 -o json"),
    "pipeline get": ("ottoctl pipeline get nightly-1", "ottoctl pipeline get nightly-1 -o yaml"),
    "pipeline graph": (
        "ottoctl pipeline graph ci.yaml",
        "ottoctl pipeline graph nightly-1 --format mermaid",
        "ottoctl pipeline graph ci.yaml --format dot",
    ),
    "pipeline cancel": ("ottoctl pipeline cancel nightly-1 --reason 'wrong branch'",),
    "pipeline approve": ("ottoctl pipeline approve nightly-1 deploy --as kim --comment 'looks good'",),
    "pipeline reject": ("ottoctl pipeline reject nightly-1 deploy --as kim --comment 'not on Fridays'",),
    "pipeline validate": ("ottoctl pipeline validate ci.yaml", "ottoctl pipeline validate ci.yaml --offline"),
    "logs": (
        "ottoctl logs otto-nightly-1-3",
        "ottoctl logs --pipeline nightly-1 --stage test -f",
        "ottoctl logs --task nightly --since 5m --level error --grep timeout",
    ),
    "status": ("ottoctl status", "ottoctl status nightly --status pending", "ottoctl status --watch"),
    "scale": ("ottoctl scale up nightly --count 3 -- ./run.sh", "ottoctl scale down nightly"),
    "scale up": (
        "ottoctl scale up nightly --count 3 -- sh -c 'echo \"$OTTO_WORKER_INDEX\"'",
        "ottoctl scale up nightly --repo https://git.example.com/shop.git --sha main --memory 1Gi --queue -- make test",
    ),
    "scale down": ("ottoctl scale down nightly", "ottoctl scale down nightly --to 1 --reason 'too many'"),
    "support-bundle": ("ottoctl support-bundle", "ottoctl support-bundle --cluster --namespace ottoscaler --file help.tar.gz"),
    "doctor": (
        "ottoctl doctor",
        "ottoctl --address build.example.com:9090 doctor -o json",
        "ottoctl doctor --cluster --namespace ottoscaler",
    ),
}


def examples(command: str) -> str:
    """The examples of a command as `--help` ends with them; line breaks are kept."""
    lines = EXAMPLES[command]
    return "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])
