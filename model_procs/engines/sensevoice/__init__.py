"""SenseVoiceSmall: what is said in several recordings at once, by one worker."""
