"""Every bound of the runtime, in one place.

Names carry their unit, the biggest word first. A bound that an operator may set has its default
here and its key in ``[limits]`` of the configuration.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

# -- what one request may bring -------------------------------------------------------------
BODY_BYTES_MAX = 32 * 1024 * 1024
"""A request body. Larger ones are refused with 413 before they are parsed."""
INPUT_ITEMS_MAX = 10_000
TEXT_CHARS_MAX = 10_485_760
"""One text of an item (Open Responses: maxLength of InputTextContentParam)."""
IMAGE_URL_CHARS_MAX = 20_971_520
FILE_DATA_CHARS_MAX = 33_554_432
TOOLS_MAX = 128
TOOL_NAME_CHARS_MAX = 64
CALL_ID_CHARS_MAX = 64
METADATA_KEYS_MAX = 16
METADATA_KEY_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 512
CONVERSATION_ITEMS_ADD_MAX = 20
"""Items in one ``POST /v1/conversations/{id}/items`` (OpenAI: up to 20 at a time)."""
PAGE_ITEMS_MAX = 100
IDEMPOTENCY_KEY_CHARS_MAX = 255
JSON_DEPTH_MAX = 64
"""Nesting of a JSON schema or of tool parameters in a request."""
MODEL_NAME_CHARS_MAX = 256
ITEM_ID_CHARS_MAX = 128
REQUEST_ID_CHARS_MAX = 128
STOP_SEQUENCES_MAX = 4
"""Stop sequences of one chat completion (OpenAI: up to 4)."""
TOKENS_MAX = 1_000_000_000
"""Highest number of tokens or calls that a request may name."""
PATH_CHARS_MAX = 4_096
"""A path that an operator names in a request."""
QUERY_BYTES_MAX = 16 * 1024
QUERY_FIELDS_MAX = 100
PROXY_HOPS_MAX = 32
"""Addresses read from the end of one X-Forwarded-For."""
PROXY_ADDRESSES_MAX = 4_096
"""Addresses of which it is remembered whether they are trusted proxies."""
WEBSOCKETS_MAX = 1_000
"""Open WebSockets of one node; past it a handshake is refused."""
WEBSOCKET_AGE_S = 60 * 60.0
"""A WebSocket is closed after this, between two responses; as long as OpenAI leaves one open."""
WEBSOCKET_IDLE_S = 15 * 60.0
"""A WebSocket on which no response runs and nothing comes is closed after this."""
WEBSOCKET_WAITING_MAX = 4
"""Messages of one WebSocket that wait while a response runs; one more is refused."""
STREAM_KEEPALIVE_S = 15.0
"""Silence after which a comment is written into a server-sent stream."""
JOINED_WRITE_BYTES_MAX = 64 * 1024
"""What is gathered of an answer before it is written without waiting for the rest."""
ACCESS_LOG_LINES_MAX = 256
"""Lines of the access log that are written together."""
ACCESS_LOG_DELAY_S = 0.25

# -- contracts --------------------------------------------------------------------------------
CONTRACT_FILES_MAX = 1_000
CONTRACT_FILE_BYTES_MAX = 4 * 1024 * 1024
CONTRACT_NODES_MAX = 200_000
"""Values in one file of contracts; a few lines of YAML aliases would else grow without end."""
CONTRACT_DEPTH_MAX = 32
"""Nesting of one file of contracts."""
ARGUMENT_DEPTH_MAX = 64
"""Nesting of a tool call's arguments."""
APPROVAL_KEY_BYTES_MIN = 32
"""A key that seals approvals: as long as the codes that it makes."""
POLICY_FILES_MAX = 200
"""Files in a folder of policies."""
POLICY_FILE_BYTES_MAX = 1024 * 1024
POLICIES_MAX = 1_000
"""Policies of a folder."""
POLICY_NAME_CHARS_MAX = 128
"""A policy's ``@id``."""
POLICY_ARGUMENT_DEPTH_MAX = 32
"""Nesting of an argument that a policy reads, and of a type that a schema declares."""
POLICY_CONTEXT_BYTES_MAX = 256 * 1024
"""What one question to the policies may hold: the arguments that they read, and facts of the session's history."""
POLICY_CASES_KEPT_MAX = 4_096
"""Who asks for which tool: so many are remembered, and then forgotten together."""
POLICY_ERRORS_KEPT_MAX = 8
"""Errors of one ruling that are recorded."""
POLICY_ERROR_CHARS_MAX = 300
FACT_VALUES_KEPT_MAX = 1_024
"""Values of one fact of which it is kept what the contracts' tests say of them."""
VERDICTS_KEPT_MAX = 256
"""Verdicts of one clause that are kept to be given again, by outcomes and posture."""
RULINGS_KEPT_MAX = 1_024
"""Verdicts on one deployment that are kept to be given again, by the facts of calls."""
PLACEMENT_SESSIONS_MAX = 100
"""Sessions that one page of placements looks through."""
REPLAY_SESSIONS_MAX = 500
"""Sessions that one reading of many logs looks at, so that a reader never holds a picture for long."""
USAGE_SESSIONS_MAX = 100
"""Sessions that one page of usage adds up."""
USAGE_BOOKS_MAX = 2
"""Books of nodes that one page of usage looks through; each has the calls of all tenants."""
USAGE_GROUPS_MAX = 1_000_000
"""Rows that an export of usage adds up in memory, about 0.6 KB each."""
RECONCILE_LINES_MAX = 1_000_000
"""Lines, by day, account, model, currency and kind of token, that a reconciliation keeps of a cloud's export."""
RECONCILE_NAMES_KEPT_MAX = 10_000
"""Texts of a cloud's rows whose model is remembered."""
RECONCILE_FIELD_CHARS_MAX = 1_000_000
"""One field of a cloud's export; a longer one is a file that is not what it should be."""
RECONCILE_LINE_BYTES_MAX = 16 * 1024 * 1024
"""One line of a cloud's export."""
RECONCILE_ROWS_SHOWN_MAX = 100
"""Differences that the table of a reconciliation shows; ``--json`` has the others."""
REPLAY_ROWS_SHOWN_MAX = 100
"""Changed placements that the table of a replay shows; ``--json`` has the others."""
RULING_SERIES_MAX = 2_000
"""Series of the counter of verdicts; further clauses are counted together as ``other``."""
DENIALS_TOLD_MAX = 5
"""Clauses, and deployments of each, that the message of a denied call names."""
DENIAL_TEXT_CHARS_MAX = 300
"""Of a clause's words in such a message."""
PREDICATE_CHARS_MAX = 4_096
LINT_FACTS_MAX = 20_000
"""Sets of facts that are tried to find whether two readings can differ."""
LINT_LISTS_MAX = 5
"""Strings of two predicates whose subsets are tried as a fact that is a list, for the same."""
PREDICATE_DEPTH_MAX = 32
"""Parentheses, lists and calls within one another in a predicate."""

# -- tools -----------------------------------------------------------------------------------
TOOL_URL_CHARS_MAX = 2_048
"""The URL of a tool's server."""
TOOL_ADDRESSES_MAX = 16
"""Addresses of one host that are judged and tried."""
TOOL_CONNECT_S = 10.0
"""To a tool's server: its addresses, and one connection to them; ``connect_timeout_s`` of the server."""

TOOL_CALL_S = 60.0
"""One call of a tool at a server; ``timeout_s`` of the server."""
MCP_SESSIONS_MAX = 256
"""Connections of one node to MCP servers that requests name; past it the one that rested longest is closed."""
MCP_IDLE_S = 300.0
"""A connection to an MCP server on which nothing was asked for this long is closed."""
MCP_CHECK_AFTER_S = 30.0
"""An unsafe tool is called on a connection that rested longer than this only after the server has said it knows it."""
MCP_CLOSE_S = 2.0
"""Wait for the goodbye of an MCP server."""
MCP_TOOLS_MAX = 512
"""Tools taken from one MCP server."""
MCP_PAGES_MAX = 32
"""Pages of its list."""
MCP_TOOLS_KEPT_S = 60.0
"""A list of tools is asked for again after this, or when its server says that it has changed."""
MCP_NAME_CHARS_MAX = 128
"""The name of a tool at an MCP server (its specification: up to 128)."""
MCP_DESCRIPTION_CHARS_MAX = 8_192
"""Of a tool's description; the rest is left out."""
MCP_SCHEMA_BYTES_MAX = 128 * 1024
"""JSON Schema of a tool's arguments; a tool with a larger one, or a deeper one than JSON_DEPTH_MAX, is left out."""
MCP_ANSWER_BYTES_MAX = 16 * 1024 * 1024
"""One answer of an MCP server, or one event of its stream."""
MCP_PARTS_MAX = 256
"""Parts of one result; what is beyond is only counted."""
MCP_HEADERS_MAX = 32
"""Headers that a request gives for an MCP server."""
MCP_HEADER_CHARS_MAX = 8_192
"""One such header."""
MCP_STDERR_LINE_CHARS_MAX = 500
"""Of a line that a server started here writes to its standard error, in our log at level debug."""

# -- API keys ---------------------------------------------------------------------------------
KEYS_MAX = 10_000
"""API keys in force or revoked, over all tenants."""
KEY_APPENDS_MAX = 8
"""Tries to record a key while others record theirs."""
KEY_APPEND_PAUSE_S = 0.01
"""At most twice this before the second of these tries, and twice as long before each one after it."""
KEY_NAME_CHARS_MAX = 128
TENANT_CHARS_MAX = 64
PRINCIPAL_NAME_CHARS_MAX = 256
"""A user's or agent's name, as a key or a token has it."""
KEYS_REFRESH_S = 2.0
"""A key that another process made or revoked is seen no later than this."""
SECRETS_MAX = 10_000
"""In the vault, over all tenants."""
SECRET_BYTES_MAX = 16_384
SECRET_NAME_CHARS_MAX = 64
VAULT_KEYS_MAX = 8
"""Master keys at a time: the one in force, and those that are on their way out."""
OIDC_TOKEN_BYTES_MAX = 16_384
OIDC_KID_CHARS_MAX = 256
OIDC_CACHE_MAX = 4_096
"""Tokens whose check is kept."""
OIDC_RSA_BITS_MIN = 2_048
JWKS_KEYS_MAX = 64
JWKS_BYTES_MAX = 262_144
JWKS_TIMEOUT_S = 5.0
JWKS_REFRESH_S = 600.0
"""An issuer's keys are fetched anew after this; a key that it took back is refused no later."""
JWKS_REFETCH_S = 10.0
"""Between two fetches, whatever tokens come."""
JWKS_STALE_S = 86_400.0
"""Keys of an issuer that stays away are used for no longer."""
KEYS_UNKNOWN_REFRESH_S = 0.2
"""A key that is not known is looked for in the log again, at most this often."""

# -- streams ----------------------------------------------------------------------------------
CHUNK_INTERVAL_MS = 25
"""Least time between two chunks of one answer; the first goes at once."""
CHUNK_INTERVAL_MS_MAX = 500
CHUNK_BYTES_MAX = 256 * 1024
"""A chunk is cut here whatever the interval says."""
OUTPUT_ITEMS_MAX = 1_000
"""Items that one model call may open."""

# -- retries ------------------------------------------------------------------------------------
RETRY_BACKOFF_MS_BASE = 500
RETRY_BACKOFF_MS_MAX = 30_000
RETRY_AFTER_MS_MAX = 10 * 60 * 1000
"""A provider that asks for more is taken at its word no longer than this."""
RELAY_RETRIES_MAX = 2
"""Further tries of a stateless call that said nothing yet."""
RETRY_AFTER_RELAY_MS_MAX = 10_000
"""A stateless call is not kept waiting longer than this for another try."""
CRASHES_MAX = 3
"""Crashes of a worker on one session, with no step between, before it is quarantined."""

# -- dedup ----------------------------------------------------------------------------------------
DEDUP_TTL_S = 24 * 3600
RETRY_DEDUP_TTL_S = 600

# -- the store --------------------------------------------------------------------------------------
EVENT_BYTES_MAX = 64 * 1024 * 1024
APPEND_EVENTS_MAX = 1_000
HOLDS_MAX = 16_000
"""Holds of one append, which may record as many calls as it has events, each of which a few budgets cover."""
AMOUNT_DIGITS_MAX = 40
"""Digits of an amount before and after its point; what is within them adds up without rounding."""
BATCH_REQUESTS_MAX = 512
"""Requests that one group commit carries."""
STORE_QUEUE_MAX = 100_000
BLOB_BYTES_MIN = 16 * 1024
"""Inline data smaller than this stays in its event."""
PRUNE_ROWS_MAX = 2_000
"""Chunks that one transaction deletes, so that pruning holds nobody up for long."""
PRUNE_BYTES_MAX = 8 * 1024 * 1024
"""Bodies of erased sessions that one transaction deletes; a single larger one goes alone."""
PRUNE_SESSIONS_MAX = 200
"""Sessions that one transaction of the retention takes away, and that one reading looks at."""
PRUNE_EVERY_S = 60.0
SCRUB_WAIT_MS = 500
"""What the writer waits for readers, so that erased content leaves the journal; then it tries again later."""
SCRUB_RETRY_MS = 1_000
BACKUP_COPY_BYTES = 1024 * 1024
"""A piece of a file that is copied into or out of a backup."""
INBOX_POSTS_MAX = 1_000
"""Posts waiting in one session's inbox."""

BATCH_BYTES_MAX = 16 * 1024 * 1024
"""Bodies that one group commit carries; a single larger request goes alone."""
GATHER_S = 0.001
"""A commit waits this long for more where the one before it carried at least twice as much."""
STORE_READERS = 4
"""Threads that read; each read is one page in one short transaction."""
READ_PAGE_EVENTS_MAX = 512
READ_PAGE_BYTES_MAX = 1024 * 1024
"""A page of a read ends here; a single larger event is a page of its own."""
RECENT_EVENTS_MAX = 4_096
"""Newest events kept in memory for those who follow them; older ones are read from the disk."""
RECENT_BYTES_MAX = 64 * 1024 * 1024
RECENT_SESSIONS_MAX = 50_000
"""Sessions whose head is remembered in memory."""
TAIL_EVENTS_MAX = 10_000
"""Records of one answer of ``tail``; the rest comes with the next call."""
TAIL_READS_MAX = 256
"""Sessions that one ``tail`` looks up on the disk; the rest waits for the next call."""
EXPIRED_ROWS_MAX = 200
"""Expired dedup keys or balances, or sessions of a dead owner, that one transaction clears."""
BLOB_GRACE_S = 3600
"""A blob without a reference is deleted once nothing has touched it for this long."""
WAL_BYTES_MAX = 16 * 1024 * 1024
"""Written since the last checkpoint, about; then the next one is made."""

CONNECT_TIMEOUT_S = 10.0
"""To a database server; and how long what it refuses is tried again before callers are told."""
COMMIT_PATIENCE_S = 60.0
"""A commit without an answer is looked for on another connection after this."""
COMMIT_TRIES_MAX = 20
"""Tries of a commit that met a deadlock, or others that were faster."""
LOCK_WAIT_S = 10.0
"""Wait for a row's lock, which others hold for one commit."""
TAIL_POLL_S = 0.25
"""What other nodes committed is looked for this often, whether a notification came or not."""
NOTIFY_EVERY_S = 0.02
"""Least time between two notifications of one node: each takes a lock of the whole database."""
CHUNK_PART_S = 6 * 3600
"""Chunks of this long lie in one partition, which is dropped whole."""
CHUNK_PARTS_AHEAD = 2
"""Partitions that are made before their time."""
STANDBYS_ASKED_S = 5.0
"""How often it is asked whether commits wait for a standby; who sets that up waits so long until readers do, too."""
CONFIRMED_AFTER_S = 600
"""What was recorded so long before a confirmation of the standby's was in it, whatever the nodes' clocks say."""
WRITERS_KEPT_S = 7 * 24 * 3600
"""A writer that committed nothing for this long is gone, and its proof with it."""

DRAIN_S = 5.0
"""A stop goes on answering this long while ``/readyz`` says no; ``server.drain_s``."""
DRAIN_S_MAX = 600.0
LISTEN_BACKLOG = 2_048
"""Connections that wait to be accepted."""

# -- the doctor ----------------------------------------------------------------------------------
DOCTOR_SYNCS = 8
"""Writes whose syncs are timed."""
SYNC_SLOW_MS = 20.0
SYNC_FAST_MS = 0.02
"""No disk makes a write durable faster; a file system in memory, or one that lies, does."""
CERTIFICATE_WARN_S = 14 * 24 * 3600
"""A certificate that is over sooner than this is warned of."""
CLOCK_APART_WARN_S = 1.0
"""Between this machine's clock and the database's; timers and deadlines go by both."""
CLOCK_APART_FAIL_S = 60.0
DISK_FREE_WARN_BYTES = 1024 * 1024 * 1024
DISK_FREE_FAIL_BYTES = 100 * 1024 * 1024
DOCTOR_PROBES = 8
"""Deployments that are asked at a time."""
DOCTOR_PROBE_S = 10.0
DOCTOR_ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""What is read of the answer of whoever has the port."""

EMBEDDING_INPUTS_MAX = 2_048
"""Texts, or tokens of one text, in one request for vectors (OpenAI: maxItems)."""
EMBEDDING_DIMENSIONS_MAX = 65_536
# -- the engine -----------------------------------------------------------------------------------
ENTROPY_BYTES = 4096
"""Random bytes that are drawn from the system at a time, for ids."""
SESSIONS_CACHED_MAX = 2_000
SESSIONS_CACHED_BYTES_MAX = 32 * 1024 * 1024
WATCH_QUEUE_EVENTS_MAX = 10_000
"""Records waiting for one reader; past it the reader starts again from its cursor."""
ACTIVE_TURNS_MAX = 4_096
"""Turns that one node runs at a time; past it requests are answered 503."""
LEASE_TTL_S = 12.0
CLAIM_POLL_S = 1.0
INBOX_UNREADABLE_S = 60.0
"""A session whose inbox cannot be read is offered again after this, to this node or one that can."""
SHUTDOWN_GRACE_S = 5.0
"""How long running turns may end by themselves at a stop, where no other node can go on with them."""
HANDOVER_GRACE_S = 0.25
"""The same where others can: a call that is about to end is not paid for twice, and nobody waits for the rest."""
HANDOVER_ASK_S = 1.0
"""A stop waits this long to hear whether there are others."""
SNAPSHOT_CONTEXT_BYTES_MAX = EVENT_BYTES_MAX // 8
"""A larger context has no snapshot: it is one event, in which JSON may take six bytes for a character, and an event
that is refused would kill the session's worker each time."""
SNAPSHOT_WASTE_BYTES_MIN = 4_096
"""A snapshot is worth its writing once reading a session takes this much more than its context."""

CHUNKS_RETENTION_S = 24 * 3600
"""Deltas of an ended turn are kept this long for replay; ``[retention] chunks_s``."""
DELETED_RETENTION_S = 30 * 24 * 3600
"""What was deleted over the API is erased after this; ``[retention] deleted_s``."""
SNAPSHOTS_RETENTION_S = 7 * 24 * 3600
"""Snapshots that only an older release can read are kept this long; ``[retention] snapshots_s``."""

# -- placement ------------------------------------------------------------------------------------
CIRCUIT_WINDOW_MS = 30_000
"""Over this long a deployment's calls count for its rate of errors."""
CIRCUIT_BUCKETS = 10
"""Pieces of that window; the oldest is dropped as a whole."""
CIRCUIT_FAILURES_IN_ROW = 3
"""Failed calls with no good one between, after which a deployment is left alone."""
CIRCUIT_CALLS_MIN = 10
"""Calls in the window before their rate of errors says anything."""
CIRCUIT_ERROR_RATE = 0.5
"""Share of failed calls in the window from which a deployment is left alone."""
CIRCUIT_COOL_MS_BASE = 1_000
"""A deployment is left alone this long, then one call tries it; twice as long after each try that fails."""
CIRCUIT_COOL_MS_MAX = 60_000
CIRCUIT_PROBE_MS = 1_000
"""While one call tries a deployment, others look again after this."""
RATE_LIMITED_MS = 1_000
"""A deployment that limits the rate and does not say for how long is left alone this long."""
RATE_PER_MINUTE_MAX = 1_000_000_000
"""Highest ``rpm`` and ``tpm`` of a deployment, and of a rate limit."""
RATE_WINDOW_MS = 60_000
"""Requests and tokens of a rate limit are counted in windows of this length: the minutes of UTC."""
RATE_WAIT_MS_MAX = 30_000
"""A running turn that waits for a place of a concurrency limit looks again after this at the latest."""
NO_DEPLOYMENT_WAIT_MS_MAX = 10_000
"""A request that would wait longer than this for a deployment is refused with 503; background ones wait."""

# -- traces ---------------------------------------------------------------------------------------
TELEMETRY_SPANS_MAX = 20_000
"""Spans that wait to be sent; past it they are dropped, and counted."""
TELEMETRY_BATCH_MAX = 512
TELEMETRY_EVERY_S = 2.0
TELEMETRY_TIMEOUT_S = 5.0
"""Wait for a collector."""
TELEMETRY_BEGUN_MAX = 20_000
"""Calls and turns under way of which first words and verdicts are remembered; the oldest are forgotten."""
TELEMETRY_SERIES_MAX = 1_000
"""Sets of attributes of one instrument; whatever comes beyond is one more, ``otel.metric.overflow``."""
TELEMETRY_ATTRIBUTE_CHARS_MAX = 256
"""Of an attribute's value in a metric."""
TELEMETRY_READ_S = 1.0
"""One reading of the engine serves all instruments that are asked within this time."""

# -- tools ----------------------------------------------------------------------------------------
TOOL_CALL_TIMEOUT_S = 60.0
"""One call of a tool, and one listing of a server's tools."""
INSTRUCTIONS_BYTES_MAX = 256 * 1024
"""An agent's instructions."""
TOLD_TURNS_MAX = 10_000
"""Turns of which a node remembers what servers that their requests name are to be told."""
MCP_TOOL_NAME_CHARS_MAX = 256
URL_CHARS_MAX = 2048
TOOL_CALLS_PARALLEL_MAX = 8
"""Tool calls of one turn that are under way at once; the others wait."""
TOOL_CALLS_ANSWER_MAX = 128
"""Calls of hosted tools in one answer of a model: what becomes of them is one append."""
TOOL_ERROR_CHARS_MAX = 4_000
"""What is kept of why a call failed."""
TOOL_LIST_BYTES_MAX = 1024 * 1024
"""The tools of one server, as they are recorded; of a longer list none."""
SERVERS_KEPT_MAX = 16
"""Servers whose tools a session remembers, so that it need not record the same list again."""
HISTORY_SUMS_MAX = 128
"""Names of arguments of one tool that a session has sums of; a call that brings more is not made."""
PENDING_MAX = 1_000
"""Calls of one session that wait for a person; one more is not asked about, and not made."""
ANSWERED_SESSIONS_MAX = 16
"""Other sessions whose approvals one request answers."""
TOOL_STOP_S = 5.0
"""How long a tool call that is told to end may take to do so, before nobody waits for it any more."""
TOOL_OUTPUT_BYTES_MAX = 8 * 1024 * 1024
"""What is kept of one call's answer; of a longer one nothing is. At six bytes for a byte, which is what JSON makes of
control characters, it still fits into an event; and a client may send it back (TEXT_CHARS_MAX)."""
TOOL_OUTPUT_SHOWN_BYTES = 32 * 1024
"""What a model is shown of one call's output of text, recorded with each turn; the rest it reads by a handle."""
APPROVAL_TTL_MS = 7 * 24 * 3600 * 1000
"""How long an approval can be given."""

# -- money ----------------------------------------------------------------------------------------
AMOUNT_MAX = 1_000_000_000
"""Highest price, rate and limit of a budget, in units of its currency."""
AMOUNT_PLACES_MAX = 15
"""Digits behind the point of such an amount: what a call costs is exact in 28 digits."""
PRICE_FILE_BYTES_MAX = 64 * 1024 * 1024
"""One catalogue, or file of prices."""
PRICE_ROWS_MAX = 200_000
"""Rows of a price book."""

# -- model calls ----------------------------------------------------------------------------------
DEPLOYMENT_CALLS_MAX = 1_000
"""Calls under way at one deployment; ``max_concurrency`` of the deployment."""
MODEL_CALL_TIMEOUT_S = 600.0
"""One model call, whole; ``timeout_s`` of the deployment."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""One provider's answer, streamed or not; a longer one is cut off and refused."""
ANSWER_EVENT_BYTES_MAX = 32 * 1024 * 1024
"""One event of a provider's stream; the last one may repeat the whole request."""
EVENT_HEADERS_KEPT_MAX = 64
"""Sets of headers of event streams that are remembered as they were read: there is a handful, always repeated."""
EVENT_PRELUDES_KEPT_MAX = 1_024
"""The same of their beginnings, which say lengths: a stream of short texts has some dozens."""
ERROR_BODY_BYTES_MAX = 64 * 1024
"""What is read of a provider's error answer."""
PROVIDER_MESSAGE_CHARS_MAX = 2_000
"""What is kept of a provider's own error text."""
UPSTREAM_CONNECTIONS_MAX = 2_000
"""Connections of one node to all providers; a call past it waits as if it were connecting."""
UPSTREAM_KEEPALIVE_S = 15.0
"""An idle connection is closed after this, before most providers close it themselves."""
UPSTREAM_CONNECT_S = 10.0
"""A free connection, DNS, TCP and TLS, together."""
UPSTREAM_FIRST_BYTE_S = 300.0
"""From the call to the headers of a streamed answer, as a model may think before its first word;
``first_byte_s`` of the deployment."""
UPSTREAM_STALL_S = 120.0
"""Silence inside a streamed answer; ``stall_s`` of the deployment."""
UPSTREAM_DRAIN_S = 0.25
"""Wait for the end of a body whose last event has come, so that its connection can be used again."""
UPSTREAM_HEAD_BYTES_MAX = 64 * 1024
"""What a provider may send without a byte of body: its headers, trailers and framing."""
UPSTREAM_READ_AHEAD_BYTES_MAX = 256 * 1024
"""Of an answer that nobody reads yet; past it the network waits."""
UPSTREAM_DNS_TTL_S = 60.0
"""A provider's addresses are kept this long."""
UPSTREAM_CREDENTIALS_S = 30.0
"""Wait for credentials that a program, a metadata service or a token service gives."""
UPSTREAM_ROUTES_MAX = 1_024
"""Deployments whose prepared headers are kept; past it they are prepared again."""

# -- the local model ------------------------------------------------------------------------------
LOCAL_CONTEXT_TOKENS = 8192
"""Context window of the local model: 12 KB of memory a token for the 0.5B model."""
LOCAL_CALLS_WAITING_MAX = 32
"""Calls that wait for the local model, which answers one at a time; past it they are refused."""
LOCAL_OUTPUT_TOKENS = 2048
"""Output of one call that names no ``max_output_tokens``: a small model may never stop by itself."""
LOCAL_PROMPT_CACHE_MB = 256
"""Memory for the prompts of other sessions, so that coming back to one reads only what is new."""
LOCAL_CALLS_PARALLEL_MAX = 8
"""Tool calls taken from one answer of the local model."""
LOCAL_STRAY_CHARS_MAX = 48
"""Text after a tool call before the answer is cut off: the model has begun to talk to itself."""
LOCAL_THREADS_MAX = 8
"""Threads of the local model; more do not make a model of its size faster."""
LOCAL_HOLD_CHARS_MAX = 16 * 1024
"""Text held back while it may be a tool call; past it, it is text after all."""
LOCAL_JSON_DEPTH_MAX = 64
"""Nesting that is read in a model's JSON, and followed in a tool's schema."""
LOCAL_SCHEMA_STEPS_MAX = 20_000
"""Schemas visited while checking one call: branches that refer to each other would grow without end."""
FETCH_STALLS_MAX = 5
"""Broken downloads in a row, none of which brought a byte, before the next source is tried."""
FETCH_TIMEOUT_S = 10.0
"""To connect to a model hub, and for each silence in its answer."""
COMMITMENT_INTERVALS_MAX = 1200
"""Intervals of one commitment: a century of months."""
PLAN_PLACEMENTS_MAX = 100_000
"""Workloads times deployments times quarters of one plan."""
MARGINAL_VALUES_FRESH_S = 24 * 3600
"""A plan's marginal values count for as long; prices and use move, and so does what a commitment still needs."""


class TurnLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What ends a turn with a named reason. Recorded with the turn, so a restart keeps them."""

    steps_max: int = 64
    """Effects in one turn: model calls (lost ones included), tools, timers."""
    turn_tokens_max: int = 2_000_000
    """Input and output tokens, summed over the calls of one turn."""
    wall_time_ms_max: int = 30 * 60 * 1000
    output_bytes_max: int = 4 * 1024 * 1024
    """UTF-8 bytes of the output of one turn."""
    model_failures_max: int = 5
    """Failed model calls in a row before the turn fails with the last error."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long things are kept that nobody asked to keep for ever. Seconds; None: for ever."""

    chunks_s: Annotated[int, Meta(ge=1)] = CHUNKS_RETENTION_S
    deleted_s: Annotated[int, Meta(ge=0)] = DELETED_RETENTION_S
    idle_s: Annotated[int, Meta(ge=1)] | None = None
    snapshots_s: Annotated[int, Meta(ge=0)] = SNAPSHOTS_RETENTION_S


# -- money -----------------------------------------------------------------------------------------
OVERHEAD_TOKENS = 1_024
"""Input tokens that a provider may add of its own: its chat template, and what it says of tools."""
ITEM_OVERHEAD_TOKENS = 16
"""And around each item."""
IMAGE_TOKENS_MAX = 16_384
"""The most input tokens that one image may take, at the highest detail of any provider."""
OUTPUT_TOKENS_DEFAULT = 32_768
"""Output that is reserved where neither the request nor what is known of the model bounds it."""
OUTPUT_TOKENS_PAID_MIN = 16
"""A call whose budget pays for less output than this, or than it asks for, is refused (OpenAI's least limit)."""
BUDGET_TRIES_MAX = 4
"""How often a call is fitted anew into what a budget has left, while others draw on it, too."""
LEDGER_ENTRIES_MAX = 10_000
"""Beginnings and ends of calls in one session of the ledger of stateless calls; then another is begun."""
LEDGER_CALLS_MAX = 100
"""Entries of that ledger that one event has."""
LEDGER_BATCH_MAX = 500
"""Entries of that ledger that one append writes."""
LEDGER_WAITING_MAX = 20_000
"""Entries that wait to be written while the store is away; past it, new calls are refused."""
LEDGER_GATHER_S = 0.008
"""How long a stateless call may wait for others to be recorded with it, where many come."""
LEDGER_DELAY_S = 0.05
"""How long an entry that nobody waits for may wait for others."""
METER_PAYERS_MAX = 10_000
"""Payers of which it is remembered which budgets cover them."""
PRICES_LOOK_S = 60.0
"""How often it is looked whether another day's prices and rates hold."""
AUDIT_ANCHORS_WAITING_MAX = 1_000
"""Sessions whose chains wait to be signed before it is done at once; of twice as many, the oldest waits no more."""
AUDIT_LAST_ANCHORS_S = 3.0
"""How long a node that stops goes on signing."""
AUDIT_SEGMENT_RECORDS_MAX = 1000
"""Records of an erased session that one event keeps, under an anchor of their own."""
