"""The wire between the front and its child processes, and what both do alike; imports neither."""
