"""One module per stage of dvc.yaml: it reads declared inputs, calls the library, writes declared outputs.

A stage is a process of its own. OpenMP threads that wait in it sleep instead of spinning: on a machine with more
runnable processes than cores, spinning made a small network three hundred times slower (measured), and saved nothing
elsewhere. The runtime reads the variable when torch is imported, so it is set before any stage module is.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
