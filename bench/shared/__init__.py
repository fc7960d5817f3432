"""What nodes that share one PostgreSQL cost, and what they promise. `python -m bench.shared --help`."""
