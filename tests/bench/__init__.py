"""Measures a standalone service from outside, as its users do: real processes, real ports, real workers.

`make bench` runs it. Each measure is a module's function that gives figures; `figures` says what a figure is and what it should be at
least, `machine` where it was measured, `compare` what changed between two results beyond their noise. Nothing here asserts: figures are
read, not passed. It may use the wire contract, and starts the service as a process; it imports no service.
"""
