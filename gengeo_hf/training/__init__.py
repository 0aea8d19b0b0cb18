"""Training of a GenGeo model: the loop, its settings, batches, steps and checkpoints."""

import os

# Before torch is imported: waiting threads sleep instead of spinning. On cores that other programs use, spinning
# threads would block the thread that they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
