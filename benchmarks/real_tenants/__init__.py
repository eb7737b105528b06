"""Real tenants: what a skill adds to what a base model does with the policy, with retrieval, and with nothing."""
