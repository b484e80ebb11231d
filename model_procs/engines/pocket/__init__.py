"""Kyutai Pocket TTS: many voices at once from one worker."""
