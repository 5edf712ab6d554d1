"""Pipelines that come with ottoctl: they need nothing but `sh`, so they show on any installation that it works."""

from ottoctl.pipeline_file import PipelineFile, read_text

SIMPLE = """
name: Simple
stages:
  - {name: hello, commands: 'echo "Hello from $OTTO_STAGE_ID on $(uname -sm)"; date -u'}
"""

FULL = """
name: Full
stages:
  - name: setup
    commands: |
      uname -a
      echo "workspace: $OTTO_WORKSPACE"
      df -h "$OTTO_WORKSPACE"
  - name: build
    dependencies: [setup]
    commands: |
      mkdir -p out
      for i in 1 2 3; do echo "int f$i(void) { return $i; }" > "out/f$i.c"; echo "wrote out/f$i.c"; done
  - name: test
    dependencies: [build]
    worker_count: 3
    commands: |
      echo "worker $OTTO_WORKER_INDEX of $OTTO_WORKER_COUNT"
      grep -n "return $OTTO_WORKER_INDEX" "out/f$OTTO_WORKER_INDEX.c"
  - name: package
    dependencies: [test]
    commands: |
      tar -cf out.tar out
      ls -l out.tar
  - name: report-failure
    dependencies: [package]
    config: {otto.run_if: on_failure}
    commands: echo "something before this failed"
  - name: cleanup
    dependencies: [package, report-failure]
    config: {otto.run_if: always}
    commands: rm -rf out out.tar
"""

PARALLEL = """
name: Parallel
stages:
  - {name: prepare, commands: 'seq 1 400000 > numbers; wc -l numbers'}
  - {name: sort, dependencies: [prepare], commands: 'sort -R numbers | sort -n | tail -n 1'}
  - {name: checksum, dependencies: [prepare], commands: 'cksum numbers'}
  - {name: compress, dependencies: [prepare], commands: 'gzip -c numbers | wc -c'}
  - name: shards
    dependencies: [prepare]
    worker_count: 4
    commands: |
      awk -v n="$OTTO_WORKER_COUNT" -v i="$OTTO_WORKER_INDEX" 'NR % n == i - 1 {s += $1} END {print "shard", i, "sum", s}' numbers
  - {name: finish, dependencies: [sort, checksum, compress, shards], commands: 'rm numbers; echo done'}
"""

TEMPLATES = {"simple": SIMPLE, "full": FULL, "parallel": PARALLEL}


def template(name: str) -> PipelineFile:
    """A template, read; raises KeyError for a name that there is none of."""
    return read_text(TEMPLATES[name].encode(), name, name).whole()
