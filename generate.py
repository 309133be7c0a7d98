"""So that YAMLs written for the earlier example, which run `python3 generate.py`, work."""

from detsd.grid import main

if __name__ == "__main__":
    main()
