"""``python -m stateline.models.local``: fetch the local model if it is not here, and print its path."""

from __future__ import annotations

import sys

from stateline.models.local.fetch import FetchError, fetch_model
from stateline.models.local.progress import Bar


def main() -> int:
    """0 with the path on standard output, or 1 with one clear line on standard error."""
    try:
        with Bar() as bar:
            path = fetch_model(report=bar)
    except FetchError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the next try goes on from here\n")
        return 130
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
