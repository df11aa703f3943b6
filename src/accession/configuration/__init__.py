"""Configuration as code: files with collections, notifications, webhooks and digests, and the database.

A file is parsed (`documents`), checked (`model`, `loading`), compared with the installation (`planning`) and
applied in one transaction (`applying`). What can differ, and how it is changed, is in a module for each part,
such as `webhook_changes`. `export` writes the installation as a file.
"""
