"""Opens the language model that the settings name. The actors in ``pipeline/llm_actors.py`` call it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.synthesis.llm.endpoint import generate_with_endpoint
from looper.jobs.synthesis.llm.offline_vllm import OfflineEngine
from looper.jobs.synthesis.llm.request import Generate
from looper.jobs.synthesis.llm.response_cache import generate_cached
from looper.platform.adapters.base_revision import read_base_revision
from looper.platform.domain.errors import InvalidInput
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import ModelSettings


@dataclass(frozen=True)
class LanguageModel:
    """A language model that takes requests."""

    name: str
    """Name or revision of the model. It separates its cached responses from those of other models."""
    generate: Generate
    """Sends requests to the model."""

    def with_cache(self, store: ObjectStore, tenant: str) -> Generate:
        """Return a function that sends only requests without a cached response.

        Args:
            store: Object store with the cached responses.
            tenant: Tenant of the job. Tenants do not share responses.

        Returns:
            The function.
        """
        return partial(generate_cached, generate=self.generate, store=store, tenant=tenant, model=self.name)


OpenModel = Callable[[], LanguageModel]
"""Opens a language model. The process that calls it may be a worker of Ray."""


def open_model(settings: ModelSettings, base: BaseModelSource | None) -> LanguageModel:
    """Open the endpoint that the settings name, or the base model if they name none.

    The engine of a base model is large: call this once for each process.

    Args:
        settings: Endpoint and model name.
        base: The base model. None, if the settings name an endpoint.

    Returns:
        The model.

    Raises:
        InvalidInput: The settings name an endpoint but no model.
    """
    if settings.endpoint is None:
        assert base is not None, "synthesis was given neither a base model nor an endpoint"
        model_dir = base.on_this_node()
        return LanguageModel(read_base_revision(model_dir), OfflineEngine(model_dir))
    if settings.name is None:
        raise InvalidInput(
            "synthesis.model.endpoint is set, but synthesis.model.name is not: set LOOPER_SYNTHESIS__MODEL__NAME to "
            "the model's name at that endpoint"
        )
    return LanguageModel(settings.name, partial(generate_with_endpoint, settings=settings))
