"""Hubs that publish weights, behind one protocol. Runs in `voice-engine models pull`."""
