"""The three services in one process on one port, calling each other over gRPC, workers being local processes.

The only package that may import the services; it composes their composition roots and decides where their state lies, nothing else.
"""
