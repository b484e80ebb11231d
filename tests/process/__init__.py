"""Tests of the service as a process, with tiny engines."""
