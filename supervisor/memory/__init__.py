"""The memory of the container and of each process, and when to replace a worker. In the front."""
