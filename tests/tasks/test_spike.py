import time
from tests.tasks.conftest import running_worker, today_is
from tests.making import day
def test_a(app, broker, session, collection, vendor):
    from accession.tasks.purchases import start_imports
    vendor.sells(day(2014,1,2,10), *[f"t{i}" for i in range(120)])
    t=time.monotonic()
    with today_is(day(2014,1,4,10)):
      with running_worker(app):
        print("start", time.monotonic()-t); t=time.monotonic()
        start_imports([collection.id], force_reimport=False)
        broker.settle()
        print("run", time.monotonic()-t); t=time.monotonic()
    print("stop", time.monotonic()-t)
    from accession.catalog.models import Run
    from sqlalchemy import select
    for r in session.scalars(select(Run)): print(vars(r))
    print(vendor.marc_requests())
def test_b(app, broker, session, collection, vendor):
    test_a(app, broker, session, collection, vendor)
