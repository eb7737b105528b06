"""Runs Looper on one machine: a local Ray, the head process that serves and works the queue, and its supervisor.

control             ``looper up``, ``down`` and ``status`` act on the supervisor from another process
supervisor          keeps the head process running
head                local Ray, engines, gateway and queue worker
local_ray           a private Ray for as long as a process needs it
run_until_complete  works the queue inside a command, where no cluster runs
serve_config        the same as a config of Ray Serve, for a Ray cluster that exists
state               the file by which commands find the cluster
processes           ends processes and reacts to signals
"""
