"""Publishes, documents and verifies releases of trained networks."""
