"""Webhooks: programs that are sent events of titles and runs, signed, at least once and in order.

`catalog.title_events` and `runs.run_events` store an event for each webhook in the transaction of the change.
`delivery` sends what is stored, `registry` has the webhooks, and `log` the deliveries.
"""
