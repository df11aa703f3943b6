"""Run the command line with `python -m accession`."""

from accession.cli.main import main

if __name__ == "__main__":
    main()
