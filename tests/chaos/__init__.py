"""Hurts a live cluster at random while several tenants use it, and checks that nobody gets what is not theirs.

``python -m tests.chaos`` (``make chaos``) runs it for an hour, ``test_chaos.py`` for some minutes. The modules:

run             one run: starts the cluster, follows the schedule, waits until everything has ended, checks
schedule        which fault comes when; the seed decides
faults          what a fault does to the cluster, and how it ends
cluster         the cluster under test: ``looper up`` on PostgreSQL and S3, and its processes
services        PostgreSQL, an S3 server, and a proxy in front of each that can break connections
clock           moves the clock of some processes
skills          skills whose every version generates a token of its own
traffic         well-behaved tenants and what they were answered
hostile         a tenant that sends what nobody should send
operations      promotions, revocations, consolidations and cancellations while all of this happens
resources       memory and file descriptors of the cluster's processes
report          the results as JSON and as docs/results/chaos.md
"""
