"""What is measured, against whom, on the same work: `python -m bench`."""

from __future__ import annotations
