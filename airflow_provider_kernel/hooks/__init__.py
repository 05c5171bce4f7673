"""The hooks: Kernel's API for workers and for triggerers."""
