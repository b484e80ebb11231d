"""Model weights: locate, download or generate them; import their libraries. Runs in children."""
