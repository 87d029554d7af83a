"""Releases: published, described and verified."""
