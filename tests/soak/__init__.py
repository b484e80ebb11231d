"""`make soak`: the real service under load while it is killed, stopped, starved and lied to."""
