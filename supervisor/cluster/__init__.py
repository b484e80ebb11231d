"""The models of a cluster: Ray Serve runs them, fronts call them. Only used with `--cluster`.

front --handle--> replica (one model: queue, pool, memory policy) --fork--> workers
  |                  |
  +---- registry ----+   an actor: states of replicas, quarantined content, rate limits
"""

MISSING = (
    "the packages for clusters are not installed; install them: pip install 'voice-engine[cluster]'"
)
"""What to say where Ray cannot be imported; this module does not import it."""
