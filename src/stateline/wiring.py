"""The only place where parts meet: configuration in, a running server out."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stateline import __version__, pricing
from stateline import config as settings
from stateline.admission import auditor_of, authenticator, vault_of
from stateline.api import Options, create_app
from stateline.api.exchange import server_config
from stateline.core.calls import ModelDelta, ModelRequest
from stateline.core.errors import ModelError, StatelineError
from stateline.core.ids import Entropy, SessionRef
from stateline.core.limits import LISTEN_BACKLOG, PRICES_LOOK_S
from stateline.engine import Engine, current_trace
from stateline.engine.meter import Meter
from stateline.identity.admin_file import admin_file, new_token
from stateline.identity.keys import Keys
from stateline.logs import configure_logging, set_level
from stateline.models.catalogue import Catalogue
from stateline.models.client import HttpModelClient
from stateline.models.facts import facts_of
from stateline.models.facts.places import knows_region
from stateline.money.budgets import balance_name
from stateline.ops.anchoring import Anchoring
from stateline.ops.reload import Apply, Reloader
from stateline.ops.server import ServerOperator
from stateline.ops.telemetry import telemetry_of
from stateline.ports import Balance, Clock, Deployment, KeptStore, Product, Store
from stateline.serving import Server, calm_collector, certificates, listen, reloading
from stateline.store_logs import need_driver
from stateline.stores.clock import SystemClock
from stateline.stores.memory import MemoryStore
from stateline.stores.sqlite import open_sqlite
from stateline.toolbox import agents_of, hosts_of, tool_policy, toolbox_of

if TYPE_CHECKING:
    from stateline.contracts import Contracts
    from stateline.engine.rules import ContractRules
    from stateline.models.local import LocalModel

log = logging.getLogger("stateline")


class Clients:
    """One ModelClient over those of the clouds; the local one is imported only where it is deployed."""

    def __init__(self) -> None:
        self._http = HttpModelClient()
        self._local: LocalModel | None = None

    def call(self, deployment: Deployment, request: ModelRequest) -> AsyncIterator[list[ModelDelta]]:
        if deployment.cloud != "local":
            return self._http.call(deployment, request)
        return self._local_model().call(deployment, request)

    def _local_model(self) -> LocalModel:
        if self._local is None:
            from stateline.models.local import LocalModel

            self._local = LocalModel()
        return self._local

    async def warm(self, deployments: Iterable[Deployment]) -> None:
        """Load what the first call would wait for; a local model now, since loading it holds everything up."""
        self._http.warm(deployments)
        for deployment in deployments:
            if deployment.cloud == "local":
                try:
                    await self._local_model().load(deployment)
                except ModelError as error:
                    log.warning("the local model is not ready: %s", error.message)

    async def close(self) -> None:
        await self._http.close()
        if self._local is not None:
            await self._local.close()


def deployments(config: settings.Config, *, secrets: bool = True) -> list[Deployment]:
    """What the configuration names; the local model where it names nothing.

    Args:
        secrets: whether keys are read; what calls nobody needs none.

    Raises:
        ConfigError: a secret is not where the configuration says.
    """
    if not config.deployments:
        return [local_deployment()] if importlib.util.find_spec("xllamacpp") else []
    products = {each.name: Product(**msgspec.structs.asdict(each)) for each in config.products}
    out: list[Deployment] = []
    for item in config.deployments:
        facts = facts_of(item.upstream_model, item.model)
        if item.region is not None and not knows_region(item.cloud, item.region, item.base_url):
            # Clouds add regions every week, so this stops nobody.
            log.warning("%s: %s is not among the regions that are known of %s", item.name, item.region, item.cloud)
        # Whatever answers at an address of one's own may be called by a name that is known for another model.
        own = item.cloud in {"openai-compatible", "local"}
        out.append(
            Deployment(
                name=item.name,
                model=item.model,
                cloud=item.cloud,
                format=item.format,
                base_url=item.base_url or "",
                upstream_model=item.upstream_model,
                api_key=settings.api_key(item, os.environ) if secrets else None,
                priority=item.priority,
                weight=item.weight,
                timeout_s=item.timeout_s,
                first_byte_s=item.first_byte_s,
                stall_s=item.stall_s,
                max_concurrency=item.max_concurrency,
                rpm=item.rpm,
                tpm=item.tpm,
                service_tier=item.service_tier,
                region=item.region,
                api_version=item.api_version,
                auth=item.auth,
                facts=facts,
                lacks=frozenset() if own or facts is None else facts.lacks,
                vendor=item.vendor,
                host=item.host,
                data_zone=item.data_zone,
                accelerator=item.accelerator,
                channel=item.channel,
                product=products.get(item.product or ""),
                billing_account=item.billing_account,
                price=pricing.own_price(item),
            )
        )
    return out


def contract_rules(
    config: settings.Config, found: Sequence[Deployment], before: ContractRules | None = None
) -> ContractRules | None:
    """The contracts that the configuration names, ready to judge placements; None where it names none.

    Raises:
        ContractError: a file cannot be read, or says what is refused; in one line, with its place.
    """
    if config.contracts is None:
        return None
    posture = config.contracts.posture
    # Who has no contracts need not wait for what reads and compiles them: half of the time of a start.
    from stateline.contract_files import load_folder
    from stateline.engine.rules import ContractRules

    contracts = load_folder(Path(config.contracts.path))
    holders = {holder for gate in contracts.gates for one in gate.readings for holder in one.held_by}
    if posture != "strict" and posture not in holders:
        log.warning("contracts.posture: nobody called %s holds a reading, so whatever is contested is denied", posture)
    return ContractRules(contracts, found, posture=posture, mode=config.contracts.mode, before=before)


def _contracts(rules: ContractRules | None) -> Contracts | None:
    return None if rules is None else rules.contracts


def local_deployment() -> Deployment:
    """The model that needs no key and no configuration."""
    name = settings.LOCAL_MODEL
    return Deployment(
        name="local",
        model=name,
        cloud="local",
        format="openai-chat",
        base_url="",
        upstream_model=name,
        vendor=settings.LOCAL_VENDOR,
    )


async def open_store(store: settings.Store, clock: SystemClock) -> KeptStore:
    """The configured store; PostgreSQL's driver is imported only where it is used.

    Raises:
        StoreUnavailable: it cannot be used, in one line.
    """
    if store.path is not None:
        return await open_sqlite(store.path, clock=clock)
    need_driver()
    from stateline.stores.postgres import open_postgres

    # Several machines meet in one database, so its clock is everybody's.
    return await open_postgres(settings.store_url(store, os.environ))


Load = Callable[[], settings.Config]
"""Reads the configuration anew."""


class House:
    """The parts of a process that serves: an engine over the configured store, and who keeps the store."""

    def __init__(
        self,
        config: settings.Config,
        placing: tuple[list[Deployment], ContractRules | None, Meter | None],
        store: KeptStore,
        clock: Clock,
        client: Clients,
        *,
        load: Load,
    ) -> None:
        self.clock = clock
        self.store = store
        self.memory = MemoryStore(clock=self.clock)
        self.client = client
        self.deployments, self.rules, self.meter = placing
        self.policy = tool_policy(config)
        self.vault = vault_of(config, store, clock)
        self.agents, self.hosts = agents_of(config), hosts_of(config, self.vault)
        self._toolbox = toolbox_of(config, self.hosts, self.policy)
        self._tooled = (config.mcp_servers, config.tools, config.sandbox)
        self.tls: ssl.SSLContext | None = None
        self._catalogue = Catalogue(self.deployments)
        self._warming: asyncio.Task[None] | None = None
        self._forgetting: asyncio.Task[None] | None = None
        self.engine = self._engine(config, store, self._engine(config, self.memory, durable=False))
        self.reloader = Reloader(config, load, self._prepare)
        auditor = auditor_of(config, store, clock)
        self.operator = ServerOperator(
            store.maintenance,
            self.reloader,
            self.clock,
            forget=self._forget,
            ready=lambda: self.engine.ready,
            auditor=auditor,
        )
        self.anchoring: Anchoring | None = None
        if config.audit is not None and auditor is not None:
            self.anchoring = Anchoring(auditor, clock, config.audit.anchor_every_s)
            self.engine.turn_ended = self.anchoring.ended

    def _engine(
        self, config: settings.Config, over: Store, volatile: Engine | None = None, *, durable: bool = True
    ) -> Engine:
        return Engine(
            store=over,
            client=self.client,
            catalogue=self._catalogue,
            clock=self.clock,
            entropy=Entropy(os.urandom),
            volatile=volatile,
            limits=config.limits,
            durable=durable,
            shared=durable and config.store.path is None,
            rules=self.rules,
            meter=self.meter,
            agents=self.agents,
            toolbox=self._toolbox,
        )

    def _forget(self, erased: tuple[SessionRef, ...]) -> None:
        """Keep nothing of sessions that are erased."""
        self.engine.forget(erased)
        if erased:
            self._forgetting = asyncio.get_running_loop().create_task(self.hosts.forget(erased))

    async def _prepare(self, config: settings.Config) -> Apply:
        """Check what a reload brings, secrets and certificates included, before any of it counts."""
        found = deployments(config)
        before = self.rules
        rules = contract_rules(config, found, before)
        meter = pricing.meter_of(config, found, self.clock.now_ms(), _contracts(rules), self.meter)
        if meter is not None:
            await self._check_budgets(meter)
        policy = tool_policy(config)
        server, tls = config.server, self.tls
        if tls is not None:
            certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server)

        catalogue, agents = Catalogue(found), agents_of(config)
        tooled = (config.mcp_servers, config.tools, config.sandbox)
        # Connections of hosts that are no longer wanted close when they have rested.
        hosts = self.hosts if tooled == self._tooled else hosts_of(config, self.vault, before=self.hosts)
        toolbox = toolbox_of(config, hosts, policy)

        def apply() -> tuple[str, ...]:
            other = getattr(policy, "version", None) != getattr(self.policy, "version", None)
            self.rules, self.meter, self.policy, self.agents = rules, meter, policy, agents
            self.hosts, self._tooled = hosts, tooled
            self.engine.configure(catalogue, config.limits, rules, meter)
            self.engine.equip(agents, toolbox)
            set_level(server.log_level)
            if tls is not None:
                certificates(tls, server)
            new = [each for each in found if each not in self.deployments]
            self.deployments, self._catalogue = found, catalogue
            if new:
                self._warming = asyncio.get_running_loop().create_task(self.client.warm(new))
            same = before is None or rules is None or before.contracts.same_as(rules.contracts)
            return (() if same else ("contracts",)) + (("policy",) if other else ())

        return apply

    async def _check_budgets(self, meter: Meter) -> None:
        """Refuse a limit that was lowered below what is spent already: it would refuse every call of the month.

        Raises:
            ConfigError: ``budget_below_spent``.
        """
        limits = {each.name: each.limit for each in self.meter.budgets} if self.meter is not None else {}
        month = meter.month(self.clock.now_ms())
        lowered = [
            each
            for each in meter.budgets
            if each.mode == "hard" and (each.name not in limits or each.limit < limits[each.name])
        ]
        balances = await self.store.balances([balance_name(each, month) for each in lowered])
        for each in lowered:
            spent = balances.get(balance_name(each, month), Balance()).spent
            if spent > each.limit:
                raise settings.ConfigError(
                    code="budget_below_spent",
                    message=f"budget {each.name}: {each.limit} {each.currency} a month is less than the {spent:f} "
                    f"that are spent in {month} already",
                    hint='raise it, or set mode = "warn"; to stop calls of a key, revoke the key',
                )

    async def keep_prices(self) -> None:
        """Prices and rates change with the day, and marginal values with their file and its age."""
        day = pricing.day_of(self.clock.now_ms())
        while True:
            await asyncio.sleep(PRICES_LOOK_S)
            config, rules, now_ms = self.reloader.config, self.rules, self.clock.now_ms()
            today = pricing.day_of(now_ms)
            if today == day and config.prices.values is None:
                continue  # The price book need not be read for that.
            try:
                found = pricing.meter_of(config, self.deployments, now_ms, _contracts(rules), self.meter)
            except StatelineError as error:
                log.error("prices cannot be used, those of before stay: %s", error)
                continue
            day = today
            if found is not None and self.meter is not None and not found.same_as(self.meter):
                self.meter = found
                self.engine.configure(self._catalogue, config.limits, rules, found)

    async def start(self) -> None:
        await self.client.warm(self.deployments)
        await self.engine.start()

    async def close(self) -> None:
        await self.engine.stop(grace_s=0.0)
        self.store.maintenance.stop()
        await self.operator.close()
        if self.anchoring is not None:
            await self.anchoring.close()
        if self._warming is not None:
            self._warming.cancel()
        await self.client.close()
        await self.hosts.close()
        await self.memory.close()
        await self.store.close()


@contextlib.asynccontextmanager
async def running(config: settings.Config, load: Load) -> AsyncGenerator[House]:
    """The parts, started; stopped and closed at the end."""
    clock = SystemClock()
    # Before the store is opened: a mistake in them leaves nothing behind.
    found = deployments(config)
    rules = contract_rules(config, found)
    telemetry = telemetry_of(config.telemetry, os.environ, __version__)
    placing = (found, rules, pricing.meter_of(config, found, clock.now_ms(), _contracts(rules)))
    house = House(config, placing, await open_store(config.store, clock), clock, Clients(), load=load)
    loop = asyncio.get_running_loop()
    keeping = [loop.create_task(house.operator.keep()), loop.create_task(house.keep_prices())]
    keeping += [] if house.anchoring is None else [loop.create_task(house.anchoring.keep())]
    keeping += [] if telemetry is None else [loop.create_task(telemetry.keep(house.engine))]
    try:
        await house.start()
        yield house
    finally:
        for task in keeping:
            task.cancel()
        await house.close()
        if telemetry is not None:
            await telemetry.close()


def serve(config: settings.Config, load: Load) -> None:
    """Run the server until a signal ends it.

    SIGTERM and SIGINT end gently, a second one at once. SIGHUP reads the configuration anew, with ``load``.

    Raises:
        StatelineError: with one line, when the port is taken or the store cannot be used.
    """
    configure_logging(config.server.log_level, current_trace)
    if hasattr(signal, "SIGHUP"):
        # Until the server listens to it: the default would end the process.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        import uvloop
    except ImportError:  # pragma: no cover - Windows has none
        asyncio.run(_serve(config, load))
    else:
        uvloop.run(_serve(config, load))


async def _serve(config: settings.Config, load: Load) -> None:
    server = config.server
    if server.tls_cert is not None:
        certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server)
    listening = listen(server.host, server.port)
    scheme = "https" if server.tls_cert else "http"
    host = f"[{server.host}]" if ":" in server.host else server.host
    url = f"{scheme}://{host}:{listening.getsockname()[1]}"
    with contextlib.closing(listening):
        async with running(config, load) as house:
            engine = house.engine
            token = new_token(os.urandom)
            keys = engine.trusting(Keys(engine.store, engine.clock, os.urandom, token))
            await keys.load()
            auth = await authenticator(config, keys, engine.clock, token)
            options = Options(cors_origins=server.cors_origins, trusted_proxies=server.trusted_proxies)
            uvicorn_config = server_config(
                create_app(engine, auth, options, keys, house.operator, vault=house.vault),
                lifespan="on",
                ssl_certfile=server.tls_cert,
                ssl_keyfile=server.tls_key,
                backlog=LISTEN_BACKLOG,
            )
            uvicorn_config.load()
            house.tls = uvicorn_config.ssl
            calm_collector()
            # On PostgreSQL the command line goes to the database itself, as every other node does.
            admin = contextlib.nullcontext() if (path := config.store.path) is None else admin_file(path, url, token)
            with admin, reloading(house.reloader):
                models = ", ".join(engine.models()) or "none: add [[deployments]], or install stateline[local]"
                if house.policy is None and config.uses_tools:
                    log.info("no [policy] is set: nothing but its host stands between a tool and a call of it")
                log.info("Stateline %s on %s, store %s, models: %s", __version__, url, config.store.url, models)
                if sys.stderr.isatty():
                    log.info("Point an OpenAI client at base_url=%s/v1. Ctrl-C stops.", url)
                running_server = Server(uvicorn_config, engine, lambda: house.reloader.config.server.drains_for_s)
                await running_server.serve([listening])
