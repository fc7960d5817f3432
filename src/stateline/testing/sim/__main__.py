"""Run the command line of ``series``."""

from __future__ import annotations

import sys

from stateline.testing.sim.series import main

sys.exit(main())
