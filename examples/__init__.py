"""The demo's trajectories, as TENANT/INSTANCE.jsonl. ``looper.benchmarks.gym.generate`` has made them."""
