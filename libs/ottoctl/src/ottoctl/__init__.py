"""The Ottoscaler command line, for people at a terminal and for scripts in a pipe.

Reads pipeline files, calls the services through their wire contract, shows what happens. Knows no service's inside: it imports
the generated contract, grpc with its health and reflection messages, typer, rich and yaml,
and those lazily, because a shell waits for every completion.
"""
