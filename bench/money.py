"""The CPU that prices, the meter and budgets add to a call: ``python -m bench.money``.

Two real servers before one fake upstream, alike but that one of them has a price of the model and two hard budgets
that cover each call; loaded in turns (``bench.paired``).
"""

from __future__ import annotations

import sys
from dataclasses import replace

from bench import paired
from bench.servers import NotRunnable, adapters


def main() -> int:
    """Measure, print, keep; 0 where it ran, whatever the figures."""
    arguments = paired.arguments_of("bench.money", __doc__, "money.json")
    bare = replace(adapters()["stateline"], models={"openai-responses": "fake-responses"})
    try:
        title = "CPU a call, ms: what a price, the meter and two budgets add"
        paired.compare(arguments, title, "money adds cpu_ms", bare, replace(bare, config="money.toml"))
    except NotRunnable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
