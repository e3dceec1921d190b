"""What all tests share: interrupts that arrive, the public names in doctests, a shelf of runs."""

import signal

import pytest

import budgeted
from budgeted.core import budget, schedule
from budgeted.core.convert import Sampled
from budgeted.core.ledger import Ledger


def pytest_configure():
    # A script's shell has its background jobs ignore SIGINT, and the processes that tests interrupt would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _public_names(doctest_namespace):
    for module in (budget, schedule):
        doctest_namespace.update({name: getattr(module, name) for name in vars(module) if not name.startswith("_")})
    compositions = ("Floor", "Join", "Over", "Repeat", "Warmup", "With", "convert")
    doctest_namespace.update({name: getattr(budgeted, name) for name in compositions})
    doctest_namespace.update(Sampled=Sampled, Ledger=Ledger)


@pytest.fixture
def shelf(tmp_path):
    """A folder that runs with made-up results are put into."""
    from shelf import Shelf

    return Shelf(tmp_path)
