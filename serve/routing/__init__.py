"""Which replica receives a request, and how many replicas a pool needs."""
