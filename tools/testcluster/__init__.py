"""A real cluster for tests, on any machine.

Kind on a Docker engine that is there, or on parts made here where there is neither an engine nor an image registry.
What takes long is made once and kept in a cache that all checkouts share. A cluster and everything of it belongs to one checkout,
and is removed by what was written down about it. Only the standard library is imported, so that it runs before anything is installed.
Nothing of Ottoscaler itself is known here.
"""
