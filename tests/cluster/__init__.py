"""Tests of the service on a Ray cluster: nodes are processes of this machine."""
