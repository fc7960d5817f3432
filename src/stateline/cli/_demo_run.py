"""The demo from its first line to its last: set up, tell the story, serve on, clean up."""

from __future__ import annotations

import http.client
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from stateline.cli import EXIT_BAD_INPUT, EXIT_DOES_NOT_HOLD, EXIT_INTERRUPTED
from stateline.cli._demo_http import Api, Gone, Json
from stateline.cli._demo_screen import Screen
from stateline.cli._demo_server import (
    DEFAULT_PORT,
    DemoError,
    Interrupts,
    ServerProcess,
    environ,
    free_port,
    port_is_free,
)
from stateline.cli._demo_state import State
from stateline.cli._demo_story import RECALL, Story
from stateline.config import LOCAL_MODEL, Config, api_key, load
from stateline.core.errors import StatelineError

PROBE_S_MAX = 10.0
"""How long a server that --base-url names may take to answer whether it is there."""
LONG_ANSWER_TOKENS_MAX = 400
"""The small local model may not find an end by itself."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What was asked for on the command line."""

    data: Path
    once: bool
    local: bool
    base_url: str | None
    model: str | None
    api_key_env: str | None
    port: int | None


def run(choices: Choices) -> int:
    """Run the demo; its exit code. Whatever happens, no server of it is left behind."""
    screen = Screen()
    interrupts = Interrupts()
    demo = _Demo(choices, screen, interrupts)
    interrupts.install()
    try:
        return demo.run()
    except KeyboardInterrupt:
        screen.end()
        screen.note("Stopping. The next start goes on from here. Ctrl-C again: at once.")
        return EXIT_INTERRUPTED
    except (StatelineError, Gone) as error:
        screen.end()
        screen.failure(f"stateline: {error}")
    except OSError as error:
        screen.end()
        screen.failure(f"stateline: {error.filename or choices.data}: {error.strerror or error}")
    finally:
        interrupts.disarm()
        demo.stop()
    return EXIT_BAD_INPUT


class _Demo:
    def __init__(self, choices: Choices, screen: Screen, interrupts: Interrupts) -> None:
        self._choices = choices
        self._screen = screen
        self._interrupts = interrupts
        self._server: ServerProcess | None = None

    def run(self) -> int:
        choices, screen = self._choices, self._screen
        screen.title("Stateline: an agent that outlives its process")
        choices.data.mkdir(parents=True, exist_ok=True)
        require_unused(choices.data / "stateline.db")
        port, model = self._port(), self._model()
        path = choices.data / "stateline.toml"
        path.write_text(configuration(choices, port, model), encoding="utf-8")
        self._find_the_model(load(path, environ()))
        self._start(path, port)
        sampling: Json = {"temperature": 0} if choices.local else {}
        long: Json = {"max_output_tokens": LONG_ANSWER_TOKENS_MAX} if choices.local else {}
        assert self._server is not None
        state = State(choices.data / "demo.json")
        story = Story(screen, self._server, state, model, sampling=sampling, long=long)
        story.earlier_run()
        story.conversation()
        story.tool()
        story.crash()
        story.intact()
        self._sum_up(story, model, state.conversation)
        if not choices.once:
            self._serve_on()
        return EXIT_DOES_NOT_HOLD if story.failed else 0

    # -- setting up ---------------------------------------------------------------------------------

    def _model(self) -> str:
        """The model's name for clients; raises DemoError where the options do not go together."""
        choices = self._choices
        if choices.local:
            if choices.base_url or choices.api_key_env:
                raise DemoError("--base-url and --api-key-env go with --no-local")
            if choices.model and not choices.model.endswith(".gguf"):
                raise DemoError("--model takes a .gguf file here; another server's model goes with --no-local")
            return Path(choices.model).stem if choices.model else LOCAL_MODEL
        if not choices.base_url or not choices.model:
            raise DemoError("--no-local needs --base-url and --model")
        return choices.model

    def _port(self) -> int:
        wanted = self._choices.port or DEFAULT_PORT
        if port_is_free(wanted):
            return wanted
        if self._choices.port:
            raise DemoError(f"port {wanted} is taken; name another with --port, or none")
        port = free_port()
        self._screen.note(f"Port {wanted} is taken, so this demo listens on {port}.")
        return port

    def _find_the_model(self, config: Config) -> None:
        """Have the local model's file here, or see that the other server is there."""
        deployment = config.deployments[0]
        self._screen.step("The model")
        if not self._choices.local:
            base_url = deployment.base_url or ""
            reach(base_url, api_key(deployment, os.environ) or "")
            self._screen.note(f"{deployment.model}, at {base_url}.")
            return
        fetch_local(self._screen, deployment.upstream_model)

    def _start(self, config: Path, port: int) -> None:
        screen, data = self._screen, self._choices.data
        screen.step("The server")
        first = not (data / "stateline.db").exists()
        screen.note(f"$ stateline serve --config {config}")
        self._server = ServerProcess(config, data / "server.log", port, self._interrupts)
        took_s = self._server.start()
        screen.note(f"It answers at {self._server.root}/v1 after {took_s:.1f} s, as process {self._server.pid}.")
        database = "A new database" if first else "The database of your last run"
        screen.note(f"{database}: {data / 'stateline.db'}. Its log: {data / 'server.log'}.")

    # -- ending -------------------------------------------------------------------------------------

    def _sum_up(self, story: Story, model: str, conversation: str) -> None:
        screen, server = self._screen, self._server
        assert server is not None
        screen.step("Try it yourself" if not story.failed else "Not all of it held")
        if story.failed:
            for text in story.failed:
                screen.check(False, text)
        if self._choices.once:
            screen.note(f"$ stateline serve --config {self._choices.data / 'stateline.toml'}")
        screen.note("The conversation goes on from any client:")
        screen.code(snippets(server.root, model, conversation))

    def _serve_on(self) -> None:
        server = self._server
        assert server is not None
        try:
            self._screen.note(f"The server stays up at {server.root}/v1. Ctrl-C ends it.")
            code = server.wait()
        except KeyboardInterrupt:
            self._screen.end()
            self._screen.note("Ending the server. Start the demo again to go on with the same data.")
            return
        raise DemoError(f"the server ended by itself with exit code {code}: {server.last_words()}")

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()


def require_unused(database: Path) -> None:
    """Raises DemoError where a server runs on the database: its configuration must not be overwritten."""
    from stateline.identity.admin_file import read_admin_file

    running = read_admin_file(database)
    if running is None:
        return
    try:
        Api(running.url).get("/healthz", timeout_s=PROBE_S_MAX)
    except (Gone, StatelineError):
        return  # A server that was killed could not take its file away.
    raise DemoError(
        f"{database} is in use by the server at {running.url} (process {running.pid}): end that one, "
        "or name another folder with --data"
    )


def configuration(choices: Choices, port: int, model: str) -> str:
    """The demo's `stateline.toml`."""
    lines = [
        "# Written by `stateline demo` at each start.",
        "[server]",
        f"port = {port}",
        "",
        "[store]",
        'url = "sqlite:///stateline.db"',
        "",
        "[[deployments]]",
        'name = "demo"',
        f"model = {_toml(model)}",
    ]
    if choices.local:
        lines.append('cloud = "local"')
        if choices.model:
            lines.append(f"upstream_model = {_toml(str(Path(choices.model).resolve()))}")
    else:
        lines += ['cloud = "openai-compatible"', f"base_url = {_toml(choices.base_url or '')}"]
        key = choices.api_key_env
        lines.append(f"api_key_env = {_toml(key)}" if key else 'auth = "none"')
    return "\n".join(lines) + "\n"


def _toml(text: str) -> str:
    """A TOML string: a JSON string is one, but for DEL."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def reach(base_url: str, key: str) -> None:
    """Ask an OpenAI-compatible server for its models, which costs nothing.

    Any answer will do but a refused key: not every server lists its models.

    Raises:
        DemoError: nothing answers there, or the key is refused.
    """
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        # The configuration took the URL, so its scheme is http or https. Proxies count, as for the server.
        request = Request(f"{base_url.rstrip('/')}/models", headers=headers)  # noqa: S310
        with urlopen(request, timeout=PROBE_S_MAX):  # noqa: S310
            return
    except HTTPError as error:
        if error.code in (401, 403):
            why = f"answers {error.code}: the key is missing or wrong; name its variable by --api-key-env"
            raise DemoError(f"{base_url}: {why}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DemoError(f"{base_url}: cannot be reached: {getattr(reason, 'strerror', None) or reason}") from error


def snippets(root: str, model: str, conversation: str) -> list[str]:
    """A `curl` command and a Python program that go on with the conversation."""
    return f"""
curl {root}/v1/responses -H 'content-type: application/json' -d '{{
  "model": "{model}",
  "conversation": "{conversation}",
  "input": "{RECALL}"
}}'

# pip install openai
from openai import OpenAI

client = OpenAI(base_url="{root}/v1", api_key="unused")
response = client.responses.create(
    model="{model}",
    conversation="{conversation}",
    input="{RECALL}",
)
print(response.output_text)
""".splitlines()


def fetch_local(screen: Screen, upstream_model: str) -> None:
    """Have the model's file on this machine, and say where it is.

    Raises:
        StatelineError: it could not be fetched, or there is no such file.
        DemoError: what runs it is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("xllamacpp") is None:
        raise DemoError(
            "the local model needs the extra `local`: pip install 'stateline[local]'; "
            "or name another server by --no-local --base-url URL --model NAME"
        )
    if upstream_model.endswith(".gguf"):
        if not Path(upstream_model).is_file():
            raise DemoError(f"{upstream_model}: no such file")
        screen.note(f"{upstream_model}, on this machine.")
        return
    from stateline.models.local.catalogue import DEFAULT_MODEL
    from stateline.models.local.fetch import fetch_model, find_model
    from stateline.models.local.progress import Bar

    size = f"{DEFAULT_MODEL.size_bytes / 1e6:.0f} MB"
    path = find_model()
    if path is None:
        screen.note(f"{DEFAULT_MODEL.name} ({DEFAULT_MODEL.licence}, {size}) is fetched, once.")
        with Bar() as bar:
            path = fetch_model(report=bar)
    screen.note(f"{DEFAULT_MODEL.name}, {size}, on this machine: {path}")
