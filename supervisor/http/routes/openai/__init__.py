"""OpenAI's API. Runs in the front."""
