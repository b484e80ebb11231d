"""The wire between the front and its child processes; imports neither side."""
