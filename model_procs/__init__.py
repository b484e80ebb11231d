"""What runs in the child processes: templates, workers, engines, and the audio that they decode."""
