"""What Prometheus scrapes: counts and times of events, and the state at the moment it asks."""
