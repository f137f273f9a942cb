"""The second front door: Prefect supervises the stages of dvc.yaml, each as a process of its own.

Prefect reads its settings when it is imported, so ours stand here; a variable that is set already is left alone.
"""

import os

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
# The temporary server needs 10 to 20 seconds on two cores, more under load; Prefect would give up after 20.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
