"""Tests of the real engines and of what engines share."""
