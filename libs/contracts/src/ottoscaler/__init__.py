"""The wire contract, generated from protos/ by `make generate`. Nothing in this package is written by hand."""
