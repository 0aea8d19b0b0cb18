"""Images to descriptors: `Encoder`, its backends and the engine that encodes a whole data set."""
