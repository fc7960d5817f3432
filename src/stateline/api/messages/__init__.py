"""Anthropic's Messages: its bodies into model requests, and deltas into its objects and events."""
