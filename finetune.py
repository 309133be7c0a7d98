"""So that YAMLs written for the earlier example, which run `python3 finetune.py`, work."""

from detsd.finetune import main

if __name__ == "__main__":
    main()
