"""The registered voices. Runs in the front."""
