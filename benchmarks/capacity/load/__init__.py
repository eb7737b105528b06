"""The load of the capacity benchmark: requests, clients and latency figures."""
