"""From a request to a worker: admission, queue, deadline, replay. Runs in the front."""
