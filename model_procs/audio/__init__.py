"""Decode and measure the audio that clients send. Runs in workers."""
