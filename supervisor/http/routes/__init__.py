"""The operations, one file or folder for each API. Runs in the front."""
