"""Benchmarks of Looper beside its peers, and the tools to run and report them."""
