"""Resolves the model name of a request to versions. Used by ``completion_handler`` and ``model_routes``."""

from collections.abc import Sequence

from looper.platform.catalog import RouteTarget
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import ModelName
from looper.serve.error_responses import RequestRefused, model_not_found
from looper.serve.gateway.known_catalog import KnownCatalog


class ModelResolver:
    """Resolves model names through the catalog. While it responds, a promotion applies to the next request.

    Args:
        base_models: Names of the base models. They take precedence over a tenant's instances of the same names.
        catalog: The catalog.

    Attributes:
        base_models: The same names.
    """

    def __init__(self, base_models: Sequence[str], catalog: KnownCatalog) -> None:
        self.base_models = base_models
        self._catalog = catalog

    def resolve(self, tenant: str, model: str) -> list[RouteTarget]:
        """Return the versions that a model name stands for. It blocks while the catalog is read.

        Args:
            tenant: Tenant of the API key.
            model: Model name that the client sent.

        Returns:
            The versions that share the requests for it; none for a base model.

        Raises:
            RequestRefused: The tenant has no such model.
        """
        if model in self.base_models:
            return []
        try:
            name = ModelName.parse(model)
            if name.instance.tenant != tenant:
                raise NotFound(f"model {model} belongs to another tenant")
            return self._catalog.resolve_targets(name)
        except (InvalidInput, NotFound) as error:
            raise RequestRefused(model_not_found(model)) from error
