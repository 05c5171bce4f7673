"""The link from a task's page in Airflow's UI to its invocation."""
