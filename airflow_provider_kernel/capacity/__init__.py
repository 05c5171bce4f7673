"""The queue for a full account. No I/O."""
