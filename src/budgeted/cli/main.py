"""`budgeted`: the command, its subcommands, and how it ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from .. import __version__
from ..core.errors import BudgetedError, Interrupted, NonFiniteLoss
from .budget import budget
from .control import extend, stop
from .forecast import forecast
from .rank import rank
from .report import report
from .schedule import schedule
from .search import search
from .study import study
from .tasks import tasks
from .train import train

_TRAINING = ("torch", "torchvision", "numpy", "sklearn", "safetensors", "matplotlib")  # what budgeted[train] brings
_REPORTING = ("pandas", "scipy", "statsmodels", "scikit_posthocs", "plotly", "itables")  # what budgeted[study] brings


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, invoke_without_command=True
)
@click.version_option(__version__, prog_name="budgeted")
@click.pass_context
def cli(context: click.Context) -> None:
    """The best model that a budget can buy.

    Any budget (45min, 'until 18:00', '$20 at $2.5/h', 10ep) drives the learning rate to its end exactly when the
    budget ends.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


cli.add_command(train)
cli.add_command(study)
cli.add_command(search)
cli.add_command(report)
cli.add_command(rank)
cli.add_command(forecast)
cli.add_command(extend)
cli.add_command(stop)
cli.add_command(schedule)
cli.add_command(budget)
cli.add_command(tasks)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends in one sentence and exit code 2, a bad loss in 1, a signal in 130."""
    code = _run(arguments)
    if arguments is None:
        # Everything is on disk. Taking PyTorch apart object by object would cost the user's budget another second.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = cli.main(arguments, prog_name="budgeted", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0  # what a command ended itself with
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        _say(f"error: {' '.join(error.format_message().split())}")
        return error.exit_code
    except Interrupted as stop:
        _say(str(stop))
        return 130
    except NonFiniteLoss as error:
        _say(f"error: {error}")
        return 1
    except BudgetedError as error:
        _say(f"error: {error}")
        return 2
    except ModuleNotFoundError as error:
        if error.name not in (*_TRAINING, *_REPORTING):
            raise
        extra = "train" if error.name in _TRAINING else "study"
        _say(f"error: this needs {error.name}, which is not installed: pip install 'budgeted[{extra}]'")
        return 2
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted before there was anything to save")
        return 130
    except BrokenPipeError:
        return 141  # whoever read the output has left


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)


if __name__ == "__main__":
    main()
