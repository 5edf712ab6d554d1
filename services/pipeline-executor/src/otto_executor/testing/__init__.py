"""Doubles of what the executor stands on, for tests only: a store and workers in memory, and a scaler that serves such workers over gRPC.

They keep the Protocols' promises (the same tests run on them and on the real ones) and add ways to make trouble.
"""
