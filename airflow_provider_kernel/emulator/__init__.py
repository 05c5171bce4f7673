"""The Kernel API on localhost, running real apps written with the official ``kernel`` SDK."""
