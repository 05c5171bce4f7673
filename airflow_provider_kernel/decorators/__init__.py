"""The decorator ``@task.kernel``."""
