"""Digests for librarians: what a collection has purchased and lost, by mail and as an Atom feed.

`options` says when a digest is made and for whom, `content` reads what it contains, `issues` makes the issues
that are due, and `delivery` mails them.
"""
