"""Jobs: synthesis, consolidation, the gate and the queue worker."""
