"""Entry point of `accelerate launch -m gengeo_hf.training`, equal to `accelerate launch training/train.py`."""

from gengeo_hf.training.loop import start

if __name__ == "__main__":
    start()
