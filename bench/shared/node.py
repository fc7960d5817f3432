"""`python -m bench.shared.node ROLE`: a node's end of `processes`; its options are the first line."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from bench.loop import run
from bench.shared.processes import Values
from bench.shared.roles import ROLES


async def serve(role: str) -> None:
    """Obey until there is no more to read."""
    loop = asyncio.get_running_loop()

    async def command() -> Values | None:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        return json.loads(line) if line else None

    options = await command()
    if options is None:
        return
    async with ROLES[role](options) as obey:
        print("{}", flush=True)
        while (asked := await command()) is not None:
            print(json.dumps(await obey(asked)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=ROLES)
    run(serve(parser.parse_args().role))


if __name__ == "__main__":
    main()
