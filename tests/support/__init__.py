"""What several tests share: the service as a process, tiny engines, recordings."""
