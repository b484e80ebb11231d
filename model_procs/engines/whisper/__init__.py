"""Whisper: transcription in a hundred languages, and translation to English."""
