"""Tests of what the replica reports about itself."""
