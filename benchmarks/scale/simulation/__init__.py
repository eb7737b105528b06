"""A discrete-event simulation in which the classes of ``serve`` decide, and only time is simulated."""
