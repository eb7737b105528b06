"""Benchmark of forgetting: instances learn several sessions in turn, and are evaluated on all of them."""
