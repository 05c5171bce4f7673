"""Which invocations have ended since the last scan. No I/O."""
