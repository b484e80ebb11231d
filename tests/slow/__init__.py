"""Tests that take long: soak, conformance, mutations, setup."""
