"""
What travels between Airflow and Kernel, without I/O: requests, replies, events and the decisions of waiting.

Standard library only. Nothing here imports Airflow, an HTTP client or another part of this package.
"""
