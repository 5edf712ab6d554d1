"""Where the lines of workers come from. A source reads one place in one format; it stores nothing, masks nothing and knows no reader.

`LogSource` in `protocol` is what the collector needs of one; `file` reads the process backend's log files, `cri` their format.
A source may import the standard library and this package's errors only.
"""
