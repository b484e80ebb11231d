"""The front: HTTP, queues, policy and the care of the child processes. Imports no model library."""
