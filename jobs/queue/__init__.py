"""The queue worker, which moves consolidations through synthesis, training and the gate."""
