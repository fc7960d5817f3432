"""Which deployments serve a model, in the order in which to try them."""

from __future__ import annotations

from collections.abc import Iterable

from stateline.ports import Deployment


class Catalogue:
    """The configured deployments by the name of their model."""

    def __init__(self, deployments: Iterable[Deployment]) -> None:
        by_model: dict[str, list[Deployment]] = {}
        for deployment in deployments:
            by_model.setdefault(deployment.model, []).append(deployment)
        self._by_model = {
            model: tuple(sorted(found, key=lambda each: (each.priority, -each.weight)))
            for model, found in by_model.items()
        }

    def candidates(self, model: str) -> tuple[Deployment, ...]:
        """The deployments of ``model``: lower priority first, then the heavier; else as configured.

        Empty where no deployment has it.
        """
        return self._by_model.get(model, ())

    def names(self) -> tuple[str, ...]:
        """All models, in the order in which the configuration first names them."""
        return tuple(self._by_model)
