"""``@task.kernel``."""
