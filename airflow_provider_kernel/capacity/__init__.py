"""The queue of a full account, and the estimate of the account's limit. No I/O."""
