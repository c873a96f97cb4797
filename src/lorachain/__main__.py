"""`python -m lorachain`, which is also what launchers of several processes start."""

from lorachain.cli import main

if __name__ == "__main__":
    main()
