"""Training of a GenGeo model: the loop, its settings, batches, steps and checkpoints."""

import os

# Before torch is imported: threads that wait for each other sleep instead of spinning. On cores that other programs use
# too, spinning threads keep the one that they wait for from running.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
