"""API keys and rate limits, without HTTP. Runs in the front."""
