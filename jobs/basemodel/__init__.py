"""The base model that adapters are trained on and served over: its files, its digest and its chat template."""

from looper.jobs.basemodel.prepare import BUNDLED, CHAT_TEMPLATE, prepare, revision

__all__ = ["BUNDLED", "CHAT_TEMPLATE", "prepare", "revision"]
