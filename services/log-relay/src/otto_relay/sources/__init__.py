"""Where the lines of workers come from. A source reads one place in one format; it stores nothing, masks nothing and knows no reader.

`LogSource` in `protocol` is what the collector needs of one. `file` reads the process backend's log files, `cri` their format.
`kubernetes` reads pods' logs: `kubernetes_pod` is what the API shows of one, `kubernetes_lane` one connection after another to one
container's output, `kubernetes_lines` what comes there, and `kubernetes_position` how far all of it was read; the last two are pure.
A source may import the standard library, this package's errors and wire format, otto_runtime.tasks, and those of Kubernetes otto_kubekit.
"""
