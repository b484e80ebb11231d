"""The HTTP surface. Runs in the front."""
