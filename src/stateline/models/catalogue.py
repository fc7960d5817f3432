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
        self._by_alias: dict[str, tuple[Deployment, ...]] = {}
        for found in self._by_model.values():
            for each in found:
                for name in (each.facts.name, *each.facts.aliases) if each.facts is not None else ():
                    if name not in self._by_model:
                        self._by_alias.setdefault(name, found)

    def candidates(self, model: str) -> tuple[Deployment, ...]:
        """The deployments of ``model``: lower priority first, then the heavier; else as configured.

        A name that the configuration does not have may be another name of a model that it has. Empty where no
        deployment has it.
        """
        found = self._by_model.get(model)
        return self._by_alias.get(model, ()) if found is None else found

    def names(self) -> tuple[str, ...]:
        """All models, in the order in which the configuration first names them."""
        return tuple(self._by_model)
