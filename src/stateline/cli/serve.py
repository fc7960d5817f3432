"""`stateline serve`: run the server."""

from __future__ import annotations

from stateline.cli._options import ConfigOption, command_app, load_config

app = command_app()


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the server until it is told to stop.

    Ctrl-C or SIGTERM stops it gently: running turns are handed back and go on at the next start. A
    second signal stops it at once; nothing that was acknowledged is lost either way. SIGHUP reads the
    configuration anew.

    \b
    Examples:
      stateline serve
      stateline serve --config /etc/stateline/stateline.toml
      STATELINE_SERVER__PORT=9000 stateline serve
    """
    settings = load_config(config)

    # Imported after the configuration is known to be good, so that a mistake in it shows at once.
    from stateline.wiring import serve as run

    run(settings, lambda: load_config(config))
