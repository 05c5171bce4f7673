"""How bytes travel between Airflow and Kernel, with requests and aiohttp."""
