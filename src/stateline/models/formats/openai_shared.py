"""What both of OpenAI's wire formats share: refusals, logprobs, citations, schemas of text."""

from __future__ import annotations

from typing import Any

import msgspec

from stateline.core.calls import AllowedTools, ModelParams
from stateline.core.errors import BadRequest, ModelError
from stateline.core.items import InputFile, InputImage, UrlCitation

LOGPROBS_INCLUDED = "message.output_text.logprobs"
"""The member of ``include`` that asks for log probabilities."""


class Citation(msgspec.Struct, gc=False):
    """An annotation as providers send it; only URL citations have a neutral form."""

    type: str = ""
    url: str = ""
    start_index: int = 0
    end_index: int = 0
    title: str | None = None

    def neutral(self) -> UrlCitation:
        return UrlCitation(
            url=self.url,
            start_index=self.start_index,
            end_index=self.end_index,
            title=self.title or "",
        )


class TopLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None


class Logprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] | None = None

    def neutral(self) -> dict[str, Any]:
        """As Open Responses shows it, where every field is required."""
        return {
            "token": self.token,
            "logprob": self.logprob,
            "bytes": self.bytes or [],
            "top_logprobs": [
                {"token": top.token, "logprob": top.logprob, "bytes": top.bytes or []}
                for top in self.top_logprobs or ()
            ],
        }


def refused(param: str, what: str, wire: str) -> BadRequest:
    """Says, before anything is sent, that the wire format cannot carry a field."""
    return BadRequest(
        f"{what} cannot be sent to this model: its {wire} API has no place for it.",
        code="unsupported_parameter",
        param=param,
    )


def malformed(what: str, *, code: str = "malformed_stream") -> ModelError:
    """The provider's answer breaks its own format; another try may do better."""
    return ModelError(f"the provider's answer is malformed: {what}", code=code, retryable=True)


def cut_stream() -> ModelError:
    """The provider's stream ended cleanly, but before its last event."""
    return ModelError("the provider's stream ended before its last event", code="answer_cut", retryable=True)


def allowed_names(choice: AllowedTools) -> frozenset[str]:
    return frozenset(tool.name for tool in choice.tools)


def wants_logprobs(params: ModelParams) -> bool:
    return params.logprobs or LOGPROBS_INCLUDED in params.include


def refuse_sampling(params: ModelParams, wire: str) -> None:
    """Refuse what OpenAI's formats alone know of sampling, for one that has a temperature of at most 1."""
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(params, name):
            raise refused(name, f"A {name}", wire)
    if params.seed is not None:
        raise refused("seed", "A seed", wire)
    if wants_logprobs(params) or params.top_logprobs:
        raise refused("top_logprobs", "A wish for log probabilities", wire)
    if params.temperature is not None and params.temperature > 1:
        raise refused("temperature", "A temperature above 1", wire)


def image_url(part: InputImage, wire: str) -> str:
    if part.image_url is None:
        raise refused("input", "An image without a URL", wire)
    return part.image_url


def file_fields(part: InputFile) -> dict[str, str]:
    """The fields of an inline file that are set."""
    fields = {"filename": part.filename, "file_data": part.file_data}
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def tier_named(said: str | None) -> str | None:
    """A provider's word for the tier that served a call, in OpenAI's: others call the default ``standard``."""
    return "default" if said == "standard" else said
