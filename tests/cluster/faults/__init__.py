"""What a cluster of several nodes survives: `python -m tests.cluster.faults` does one thing to it after another.

load            tenants behind a load balancer, who go on meanwhile and write down what they get
measure         what they got during one fault, and whether all is as before
scenario        the deployment in the lab, and the faults
report          the figures of all faults as JSON and as docs/results/cluster.md
"""
