"""The links in the task's page."""
