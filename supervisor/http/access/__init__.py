"""Access to the service: middlewares for API keys, rate limits and CORS. Runs in the front."""
