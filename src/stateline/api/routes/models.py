"""``/v1/models``: the models of the configuration, with what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from stateline.api.call import Call
from stateline.api.service import Service
from stateline.core.errors import NotFound
from stateline.core.facts import Modality
from stateline.ports import Deployment


class DeploymentField(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place where a model runs."""

    name: str
    cloud: str
    region: str | None = None
    service_tier: str | None = None


class ModelField(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Stateline's own facts about a model; those that are not known are left out."""

    deployments: tuple[DeploymentField, ...]
    aliases: tuple[str, ...] = ()
    input: tuple[Modality, ...] = ()
    tools: bool | None = None
    reasoning: bool | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    service_tiers: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    source: str = ""
    read: str = ""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """``created`` is when this server started, in Unix seconds: a model has no birthday here."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "stateline"
    stateline: ModelField


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Model, ...]


async def list_models(service: Service, call: Call) -> None:
    engine = service.engine
    models = tuple(_model(name, engine.deployments(name), service.started_at) for name in engine.models())
    await call.reply_json(ModelList(data=models))


async def retrieve(service: Service, call: Call) -> None:
    name = call.path_params["model"]
    deployments = service.engine.deployments(name)
    if not deployments:
        raise NotFound(f"The model '{name[:256]}' does not exist.", code="model_not_found", param="model")
    await call.reply_json(_model(name, deployments, service.started_at))


def _model(name: str, deployments: Sequence[Deployment], created: int) -> Model:
    places = tuple(
        DeploymentField(name=each.name, cloud=each.cloud, region=each.region, service_tier=each.service_tier)
        for each in deployments
    )
    facts = next((each.facts for each in deployments if each.facts is not None), None)
    if facts is None:
        return Model(id=name, created=created, stateline=ModelField(deployments=places))
    shown = ModelField(
        deployments=places,
        aliases=tuple(each for each in (facts.name, *facts.aliases) if each != name),
        input=facts.input,
        tools=facts.tools,
        reasoning=facts.reasoning,
        input_tokens=facts.input_tokens,
        output_tokens=facts.output_tokens,
        service_tiers=facts.service_tiers,
        regions=facts.regions,
        source=facts.source,
        read=facts.read,
    )
    return Model(id=name, created=created, owned_by=facts.vendor or "stateline", stateline=shown)
