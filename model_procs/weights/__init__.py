"""Weights on disk: found, fetched, made at random; their libraries imported. Runs in children."""
