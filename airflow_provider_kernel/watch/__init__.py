"""Finds the invocations that have ended since the last scan. No I/O."""
