"""`python -m accession` is `accession`."""

from accession.cli.main import main

if __name__ == "__main__":
    main()
