"""Brings Looper up: on a private Ray of this machine, or on a Ray that exists, and keeps its control loop running.

app                 builds the one Ray Serve application that all ways up deploy
control_loop        the deployment that works the queue; one of its replicas leads
existing_ray        ``looper up`` and ``down`` on a Ray that exists
cluster_report      nodes, deployments and what waits for what
cluster_reporter    writes that report into the catalog, by the control loop that leads
cluster_status      what ``looper status`` shows
node_check          whether a node has what Looper needs
engine_model        the cluster's own engines as the language model of synthesis

control             ``looper up``, ``down`` and ``status`` act on the supervisor from another process
supervisor          keeps the head process running
head                a private Ray and the application on it
local_ray           a private Ray for as long as a process needs it
run_until_complete  works the queue inside a command, where no cluster runs
serve_config        the same as a config of Ray Serve, for a Ray cluster that exists
state               the file by which commands find the cluster
processes           ends processes and reacts to signals
"""
