"""What all transcription engines share. Runs in transcription workers."""
