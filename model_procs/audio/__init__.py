"""Audio that clients send: decoded and measured. Runs in workers."""
