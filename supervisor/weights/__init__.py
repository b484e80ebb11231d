"""The models folder: what is in it, when that changes, and its first filling. In the front."""
