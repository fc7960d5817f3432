"""What an operator does with a server: keep its store, reload its configuration, ask what is wrong."""

from __future__ import annotations
