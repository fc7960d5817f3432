"""The route table: every path that is served, once. The router and the OpenAPI document are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from stateline.api.auth import SCOPE_ADMIN, SCOPE_API
from stateline.api.call import Call
from stateline.api.chat.encode import ChatCompletion
from stateline.api.chat.params import CreateChatCompletion
from stateline.api.messages.encode import AnthropicMessage
from stateline.api.messages.params import CountMessageTokens, CreateMessage
from stateline.api.operator import BackupState, Reloaded, ServerStatus
from stateline.api.params import (
    AddConversationItems,
    CompactResponse,
    CountInputTokens,
    CreateConversation,
    CreateResponse,
    UpdateConversation,
)
from stateline.api.query import ItemList
from stateline.api.routes import (
    agents,
    audit,
    budgets,
    chat,
    conversations,
    effects,
    embeddings,
    health,
    keys,
    messages,
    models,
    operator,
    placements,
    responses,
    secrets,
    usage,
)
from stateline.api.service import Service
from stateline.core.items import Item
from stateline.core.principals import APPROVE, AUDIT, USAGE
from stateline.core.response import Response

Handler = Callable[[Service, Call], Awaitable[None]]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One operation.

    Attributes:
        path: as Starlette has it; a parameter with ``:path`` may hold slashes.
        scope: what the caller's key must allow; None: open to everybody.
        query: names of query parameters, described in ``api.openapi``.
        body, answer: the types of the JSON; ``answer`` None where it is text.
        body_optional: the body may be left out.
        streams: the answer may be server-sent events instead.
        hot: found without the router.
        openai_only: the errors are OpenAI's whatever the dialect header says.
        anthropic: the errors are Anthropic's.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    scope: str | None = SCOPE_API
    query: tuple[str, ...] = ()
    body: Any = None
    body_optional: bool = False
    answer: Any = None
    streams: bool = False
    hot: bool = False
    openai_only: bool = False
    anthropic: bool = False


_PAGE = ("after", "limit", "order", "include")
_RESPONSE = "/v1/responses/{response_id}"
_CONVERSATION = "/v1/conversations/{conversation_id}"
_ITEM = _CONVERSATION + "/items/{item_id}"

ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/responses",
        handler=responses.create,
        summary="Create a response: one turn of a session",
        body=CreateResponse,
        answer=Response,
        streams=True,
        hot=True,
    ),
    Route(
        method="POST",
        path="/v1/responses/input_tokens",
        handler=responses.input_tokens,
        summary="Estimate the input tokens of a response",
        body=CountInputTokens,
        answer=responses.InputTokens,
    ),
    Route(
        method="POST",
        path="/v1/responses/compact",
        handler=responses.compact,
        summary="Sum a conversation up, for its next turn to go on from; nothing of it is kept",
        body=CompactResponse,
        answer=responses.CompactedResponse,
    ),
    Route(
        method="GET",
        path=_RESPONSE,
        handler=responses.retrieve,
        summary="Retrieve a response, or follow its stream from a cursor",
        query=("stream", "starting_after", "include"),
        answer=Response,
        streams=True,
    ),
    Route(
        method="DELETE",
        path=_RESPONSE,
        handler=responses.delete,
        summary="Delete a response; what continued from it keeps its context",
        answer=responses.DeletedResponse,
    ),
    Route(
        method="POST",
        path=_RESPONSE + "/cancel",
        handler=responses.cancel,
        summary="Cancel a background response",
        answer=Response,
    ),
    Route(
        method="GET",
        path=_RESPONSE + "/input_items",
        handler=responses.input_items,
        summary="List what the model was given",
        query=_PAGE,
        answer=ItemList,
    ),
    Route(
        method="POST",
        path="/v1/conversations",
        handler=conversations.create,
        summary="Create a conversation",
        body=CreateConversation,
        body_optional=True,
        answer=conversations.ConversationResource,
        openai_only=True,
    ),
    Route(
        method="GET",
        path=_CONVERSATION,
        handler=conversations.retrieve,
        summary="Retrieve a conversation",
        answer=conversations.ConversationResource,
        openai_only=True,
    ),
    Route(
        method="POST",
        path=_CONVERSATION,
        handler=conversations.update,
        summary="Replace a conversation's metadata",
        body=UpdateConversation,
        answer=conversations.ConversationResource,
        openai_only=True,
    ),
    Route(
        method="DELETE",
        path=_CONVERSATION,
        handler=conversations.delete,
        summary="Delete a conversation",
        answer=conversations.DeletedConversation,
        openai_only=True,
    ),
    Route(
        method="POST",
        path=_CONVERSATION + "/items",
        handler=conversations.add_items,
        summary="Add items to a conversation",
        query=("include",),
        body=AddConversationItems,
        answer=ItemList,
        openai_only=True,
    ),
    Route(
        method="GET",
        path=_CONVERSATION + "/items",
        handler=conversations.list_items,
        summary="List a conversation's items",
        query=_PAGE,
        answer=ItemList,
        openai_only=True,
    ),
    Route(
        method="GET",
        path=_ITEM,
        handler=conversations.retrieve_item,
        summary="Retrieve an item of a conversation",
        query=("include",),
        answer=Item,
        openai_only=True,
    ),
    Route(
        method="DELETE",
        path=_ITEM,
        handler=conversations.delete_item,
        summary="Delete an item of a conversation",
        answer=conversations.ConversationResource,
        openai_only=True,
    ),
    Route(
        method="POST",
        path="/v1/chat/completions",
        handler=chat.create,
        summary="Create a chat completion; nothing of it is kept",
        body=CreateChatCompletion,
        answer=ChatCompletion,
        streams=True,
        hot=True,
        openai_only=True,
    ),
    Route(
        method="POST",
        path="/v1/embeddings",
        handler=embeddings.create,
        summary="Create embeddings; nothing of them is kept",
        body=embeddings.CreateEmbedding,
        answer=embeddings.EmbeddingList,
        openai_only=True,
    ),
    Route(
        method="POST",
        path="/v1/messages",
        handler=messages.create,
        summary="Create a message, as Anthropic's API does; nothing of it is kept",
        body=CreateMessage,
        answer=AnthropicMessage,
        streams=True,
        hot=True,
        anthropic=True,
    ),
    Route(
        method="POST",
        path="/v1/messages/count_tokens",
        handler=messages.count_tokens,
        summary="Estimate the input tokens of a message",
        body=CountMessageTokens,
        answer=messages.MessageTokens,
        anthropic=True,
    ),
    Route(
        method="GET",
        path="/v1/models",
        handler=models.list_models,
        summary="List the models that are served",
        answer=models.ModelList,
        openai_only=True,
    ),
    Route(
        method="GET",
        path="/v1/models/{model:path}",
        handler=models.retrieve,
        summary="Retrieve a model",
        answer=models.Model,
        openai_only=True,
    ),
    Route(
        method="GET",
        path="/v1/agents",
        handler=agents.list_agents,
        summary="List the agents that requests may name as their model",
        answer=agents.AgentList,
    ),
    Route(
        method="GET",
        path="/v1/agents/{name}",
        handler=agents.retrieve,
        summary="Retrieve an agent",
        answer=agents.AgentObject,
    ),
    Route(
        method="GET",
        path="/v1/approvals",
        scope=APPROVE,
        handler=effects.list_approvals,
        summary="List the tool calls that wait for a person, newest session first",
        query=("after", "session", "status"),
        answer=effects.ApprovalList,
    ),
    Route(
        method="POST",
        path="/v1/approvals/{approval_id}",
        scope=APPROVE,
        handler=effects.answer,
        summary="Let a tool call go, or not; the first answer counts, and starts a background response",
        body=effects.AnswerApproval,
        answer=effects.Answered,
    ),
    Route(
        method="GET",
        path="/v1/effects",
        scope=AUDIT,
        handler=effects.list_effects,
        summary="List what agents did: tool calls, with who wanted them and what became of them",
        query=(
            "after",
            "agent",
            "deployment",
            "from",
            "key",
            "model",
            "name",
            "principal",
            "server_label",
            "session",
            "status",
            "to",
        ),
        answer=effects.EffectList,
    ),
    Route(
        method="GET",
        path="/v1/audit",
        scope=AUDIT,
        handler=audit.show,
        summary="Give a session's audit chain, as signed lines that can be checked offline",
        query=("session",),
        answer=audit.AuditChain,
    ),
    Route(
        method="POST",
        path="/v1/effects/{effect_id}",
        scope=APPROVE,
        handler=effects.resolve,
        summary="Say what became of a tool call whose outcome is not known; starts a background response",
        body=effects.ResolveEffect,
        answer=effects.Answered,
    ),
    Route(
        method="GET",
        path="/v1/placements",
        handler=placements.list_placements,
        summary="List where calls of stored turns went, and what the contracts said, newest first",
        scope=USAGE,
        query=("after", "limit", "session"),
        answer=placements.PlacementList,
    ),
    Route(
        method="GET",
        path="/v1/usage",
        handler=usage.list_usage,
        summary="Add up what the tenant's calls used and cost, by day and model; the pages of a list add up",
        scope=USAGE,
        query=("after", "from", "to"),
        answer=usage.UsageList,
    ),
    Route(
        method="GET",
        path="/v1/budgets",
        handler=budgets.list_budgets,
        summary="List the budgets of the caller's tenant and key, and what is left of them",
        scope=USAGE,
        answer=budgets.BudgetList,
    ),
    Route(
        method="GET",
        path="/v1/admin/budgets",
        handler=budgets.list_all,
        summary="List all budgets, and what is left of them",
        scope=SCOPE_ADMIN,
        answer=budgets.BudgetList,
    ),
    Route(
        method="POST",
        path="/v1/admin/keys",
        handler=keys.create,
        summary="Create an API key; it is shown this once",
        scope=SCOPE_ADMIN,
        body=keys.CreateKey,
        answer=keys.Key,
    ),
    Route(
        method="GET",
        path="/v1/admin/keys",
        handler=keys.list_keys,
        summary="List API keys",
        scope=SCOPE_ADMIN,
        answer=keys.KeyList,
    ),
    Route(
        method="DELETE",
        path="/v1/admin/keys/{key_id}",
        handler=keys.revoke,
        summary="Revoke an API key",
        scope=SCOPE_ADMIN,
        answer=keys.Key,
    ),
    Route(
        method="POST",
        path="/v1/admin/secrets",
        handler=secrets.put,
        summary="Seal a tool's credential in the vault",
        scope=SCOPE_ADMIN,
        body=secrets.PutSecret,
        answer=secrets.StoredSecret,
    ),
    Route(
        method="GET",
        path="/v1/admin/secrets",
        handler=secrets.list_secrets,
        summary="List what is in the vault, without any value",
        scope=SCOPE_ADMIN,
        answer=secrets.SecretList,
    ),
    Route(
        method="DELETE",
        path="/v1/admin/secrets/{tenant}/{name}",
        handler=secrets.remove,
        summary="Take a credential out of use",
        scope=SCOPE_ADMIN,
        answer=secrets.StoredSecret,
    ),
    Route(
        method="POST",
        path="/v1/admin/secrets/rotate",
        handler=secrets.rotate,
        summary="Bring the vault under the first of its master keys",
        scope=SCOPE_ADMIN,
        answer=secrets.Rotated,
    ),
    Route(
        method="POST",
        path="/v1/admin/audit",
        handler=audit.export,
        summary="Give any session's audit chain",
        scope=SCOPE_ADMIN,
        body=audit.ShowAudit,
        answer=audit.AuditChain,
    ),
    Route(
        method="GET",
        path="/v1/admin/status",
        handler=operator.status,
        summary="Say what runs here, and over what store",
        scope=SCOPE_ADMIN,
        answer=ServerStatus,
    ),
    Route(
        method="POST",
        path="/v1/admin/reload",
        handler=operator.reload,
        summary="Read the configuration anew; one that cannot be used changes nothing",
        scope=SCOPE_ADMIN,
        answer=Reloaded,
    ),
    Route(
        method="POST",
        path="/v1/admin/prune",
        handler=operator.prune,
        summary="Take away what the retention does not keep, or count it",
        scope=SCOPE_ADMIN,
        body=operator.RunPrune,
        body_optional=True,
        answer=operator.PruneResult,
    ),
    Route(
        method="POST",
        path="/v1/admin/backups",
        handler=operator.start_backup,
        summary="Begin a backup into a folder of the server's machine",
        scope=SCOPE_ADMIN,
        body=operator.StartBackup,
        answer=BackupState,
    ),
    Route(
        method="GET",
        path="/v1/admin/backups",
        handler=operator.backup_state,
        summary="How far the latest backup of this process is",
        scope=SCOPE_ADMIN,
        answer=BackupState,
    ),
    Route(
        method="GET",
        path="/healthz",
        handler=health.healthz,
        summary="Whether the process answers",
        scope=None,
        answer=health.Health,
        hot=True,
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=health.readyz,
        summary="Whether turns are taken",
        scope=None,
        answer=health.Health,
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=health.metrics,
        summary="Counters, in Prometheus' text format",
        scope=USAGE,
    ),
    Route(method="GET", path="/openapi.json", handler=health.openapi, summary="This description", scope=None),
)
