"""How much memory there is, who holds it, when a worker is replaced. Runs in the front."""
