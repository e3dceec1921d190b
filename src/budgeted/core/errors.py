"""The errors of the library: each says what was given, what is allowed, and what to do next."""


class BudgetedError(Exception):
    """Something a user can mend; the command line prints it as one sentence and exits with code 2."""


class BudgetError(BudgetedError):
    """A budget that cannot be read, or that cannot be kept here."""


class ScheduleError(BudgetedError):
    """A schedule that cannot be read, built, converted or evaluated where it was asked."""


class TaskError(BudgetedError):
    """A task that is unknown, or data that is missing or damaged."""


class StudyError(BudgetedError):
    """A study that cannot be read or expanded, or that has nothing to report."""


class RunFolderError(BudgetedError):
    """A run folder that is damaged, foreign, in use, or cannot be written."""


class NonFiniteLoss(BudgetedError):
    """The training loss became NaN or infinite."""


class BudgetWarning(UserWarning):
    """The budget is kept, but something about the loop wastes it."""


class Interrupted(BudgetedError):
    """A signal stopped the run after its checkpoint was written."""
