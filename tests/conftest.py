"""What holds for all tests: they see nothing of the machine's own Airflow or Kernel, and leave nothing there."""

import os
from pathlib import Path

from hypothesis import settings

# Before any test module imports Airflow, which reads them then and writes its configuration there.
for name in list(os.environ):
    if name.startswith(("AIRFLOW", "KERNEL_")):
        del os.environ[name]
os.environ["AIRFLOW_HOME"] = str(Path(__file__).parents[1] / ".run" / "tests")

# In CI the generated inputs are the same every time: a new find belongs to whoever is looking for it.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("default", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")
