"""``/v1/models``: the models of the configuration."""

from __future__ import annotations

from typing import Literal

import msgspec

from stateline.api.call import Call
from stateline.api.service import Service
from stateline.core.errors import NotFound


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """``created`` is when this server started, in Unix seconds: a model has no birthday here."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["stateline"] = "stateline"


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Model, ...]


async def list_models(service: Service, call: Call) -> None:
    models = tuple(Model(id=name, created=service.started_at) for name in service.engine.models())
    await call.reply_json(ModelList(data=models))


async def retrieve(service: Service, call: Call) -> None:
    name = call.path_params["model"]
    if name not in service.engine.models():
        raise NotFound(f"The model '{name[:256]}' does not exist.", code="model_not_found", param="model")
    await call.reply_json(Model(id=name, created=service.started_at))
