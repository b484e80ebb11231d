"""Kokoro-82M: speech from built-in voices, on CPU."""
