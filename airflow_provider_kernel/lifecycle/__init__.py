"""An invocation over time, as decisions: the wait, the log, the record, the look-up of a lost reply. No I/O."""
