"""The skill server: one vLLM engine, its settings, its admission queue and its token counts."""
