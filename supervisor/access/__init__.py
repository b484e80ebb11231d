"""API keys and rate limits, independent of HTTP. Runs in the front."""
