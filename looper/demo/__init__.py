"""``looper demo``: the whole loop on one machine, on the gym's work places."""
