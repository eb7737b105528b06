"""The frozen base model in memory, and how adapters are applied to it."""
