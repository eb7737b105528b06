"""The base model that adapters are trained on and served with: its files, its revision and its chat template."""

from looper.basemodel.prepare import BUNDLED, CHAT_TEMPLATE, prepare

__all__ = ["BUNDLED", "CHAT_TEMPLATE", "prepare"]
