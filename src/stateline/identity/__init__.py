"""Who calls: API keys and what they allow."""
