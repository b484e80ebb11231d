"""What all speech engines share. Runs in speech workers."""
