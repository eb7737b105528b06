"""The HTTP gateway: OpenAI's API in front of the engines, with tenants, rate limits and metrics. Start in ``app``."""
