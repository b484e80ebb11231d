"""ElevenLabs' API. Runs in the front."""
