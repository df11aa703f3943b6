"""OAI-PMH 2.0 (https://www.openarchives.org/OAI/openarchivesprotocol.html).

`responses.respond` answers a request. Each record is a title of a collection. Records are never forgotten: a
title that a collection no longer holds is reported as deleted for ever.

A list runs through the titles in the order of their pool ids, which never change, up to the greatest id at
its start; the title that was modified last at its start comes at its end. A list therefore ends, and reports
each title at most once, in the state at the time of its page, no matter what changes during the harvest. The
next harvest reports titles that change after their page.

The `responseDate` is the time through which the catalogue is complete (`modification_times.complete_until`);
all pages of a list have that of the first page. A transaction may commit a title later with an earlier
modification time, so the current time would be wrong. A harvester that starts its next harvest `from` any
`responseDate` of this one misses nothing; it may receive some titles twice.

Some harvesters start it at the latest datestamp of the last page instead. No datestamp in a list is after its
`responseDate`, so they miss nothing either. The last title has the latest datestamp at the start of the list,
so they receive only the titles of its second again.
"""
