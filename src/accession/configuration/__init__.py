"""Configuration as code: collections and notifications in files, compared with and applied to the database.

A file is parsed (`documents`), checked (`model`, `loading`), compared with the installation (`planning`) and
applied in one transaction (`applying`). `export` writes the installation as a file.
"""
