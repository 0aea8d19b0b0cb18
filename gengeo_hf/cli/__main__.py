"""`python -m gengeo_hf.cli`, the same as `gengeo`."""

from gengeo_hf.cli import main

if __name__ == "__main__":
    main()
