"""``looper demo``: the whole loop on one machine, on the workplaces of the gym.

``looper.cli.demo`` calls ``run.run_demo``.
"""
