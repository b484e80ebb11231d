"""HTTP operations as data: requests read and checked, the API described. Runs in the front."""
