"""Apache Airflow provider for Kernel (https://www.kernel.sh): run the actions of Kernel apps from a Dag."""

__version__ = "0.1.0"
