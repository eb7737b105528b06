"""Which model is asked, by the settings."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from looper.jobs import basemodel
from looper.jobs.synthesis.llm.endpoint import ask_endpoint
from looper.jobs.synthesis.llm.offline_vllm import OfflineEngine
from looper.jobs.synthesis.llm.request import Ask
from looper.jobs.synthesis.llm.response_cache import ask_cached
from looper.platform.domain.errors import InvalidInput
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import ModelSettings


@dataclass(frozen=True)
class LanguageModel:
    """A model that can be asked."""

    name: str
    """What tells its answers from another's."""
    ask: Ask

    def remembering(self, store: ObjectStore, tenant: str) -> Ask:
        """Asks it what it was not asked yet in a job of ``tenant``."""
        return partial(ask_cached, ask=self.ask, store=store, tenant=tenant, model=self.name)


def open_model(settings: ModelSettings, model_dir: Path) -> LanguageModel:
    """The endpoint's, or without one the base in ``model_dir``, whose engine is large: one for each process.

    Raises InvalidInput for an endpoint without a model's name.
    """
    if settings.endpoint is None:
        return LanguageModel(basemodel.revision(model_dir), OfflineEngine(model_dir))
    if settings.name is None:
        raise InvalidInput("synthesis.model.endpoint needs the model's name there: set LOOPER_SYNTHESIS__MODEL__NAME")
    return LanguageModel(settings.name, partial(ask_endpoint, settings=settings))
