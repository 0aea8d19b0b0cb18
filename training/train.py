"""Train a GenGeo model: `accelerate launch training/train.py --config NAME|FILE [key=value ...]`.

The loop is `gengeo_hf/training/loop.py`. With an installed package, `accelerate launch -m gengeo_hf.training` starts
the same loop.
"""

from gengeo_hf.training.loop import start

if __name__ == "__main__":
    start()
