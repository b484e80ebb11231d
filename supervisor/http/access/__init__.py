"""Who may send a request: the middlewares for keys, rate limits and CORS. Runs in the front."""
