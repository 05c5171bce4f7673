"""The triggers: what is waited for in the triggerer."""
