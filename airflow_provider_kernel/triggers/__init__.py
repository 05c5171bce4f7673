"""The triggers: classes that wait in the triggerer."""
