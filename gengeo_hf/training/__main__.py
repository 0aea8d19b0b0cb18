"""`accelerate launch -m gengeo_hf.training`, the same as `accelerate launch training/train.py` in a checkout."""

from gengeo_hf.training.loop import start

if __name__ == "__main__":
    start()
