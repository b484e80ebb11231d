"""Tests that start no child process."""
