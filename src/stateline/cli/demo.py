"""`stateline demo`: a durable agent, killed and going on, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stateline.cli._options import command_app

app = command_app()


@app.command()
def demo(
    *,
    data: Annotated[Path, typer.Option("--data", help="The folder for everything that the demo keeps.")] = Path(
        "stateline-demo"
    ),
    once: Annotated[bool, typer.Option("--once", help="End after the last step, instead of serving on.")] = False,
    local: Annotated[bool, typer.Option("--local/--no-local", help="Use the model on this machine.")] = True,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="With --no-local: where an OpenAI-compatible API begins.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With --no-local: the model's name. Else: a .gguf file of your own.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="With --no-local: the environment variable that holds the key.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Port to listen on. Default: 8700, or a free one.")
    ] = None,
) -> None:
    """Hold a conversation, kill the server in the middle of an answer, and see it go on.

    It runs the real server on SQLite in --data, with a real model on this machine (491 MB, fetched once),
    checks what it shows, and serves on until Ctrl-C. A second start goes on with the same data.

    \b
    Examples:
      stateline demo
      stateline demo --once
      stateline demo --no-local --base-url http://127.0.0.1:11434/v1 --model qwen3
      stateline demo --no-local --base-url https://api.openai.com/v1 --model gpt-5-mini --api-key-env OPENAI_API_KEY

    Exit codes: 0 all that was shown holds, 1 something does not, 2 it could not run, 130 stopped by Ctrl-C.
    """
    from stateline.cli._demo_run import Choices, run

    choices = Choices(
        data=data, once=once, local=local, base_url=base_url, model=model, api_key_env=api_key_env, port=port
    )
    raise typer.Exit(run(choices))
