"""Chat Completions: its bodies into model requests, and deltas into its objects and chunks."""
