"""The demo's trajectories, as TENANT/INSTANCE.jsonl. ``looper.gym.generate`` has made them."""
