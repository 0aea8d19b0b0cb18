"""Training of a GenGeo model: the loop, its settings, batches, steps and checkpoints."""
