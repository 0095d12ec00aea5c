"""`python -m evovlm` is the `evovlm` command."""

from evovlm.cli.app import main

if __name__ == "__main__":
    main()
