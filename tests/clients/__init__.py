"""Tests with real clients and SDKs."""
