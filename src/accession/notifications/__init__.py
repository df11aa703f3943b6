"""Notifications: what a rule applies to, the messages about it, and their delivery through Apprise.

What fails stores an event in its own transaction (`events`). `incidents` applies the rules to these events
and to the present state of the installation, and queues messages. `delivery` sends them.
"""
