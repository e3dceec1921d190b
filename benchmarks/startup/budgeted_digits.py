"""The task `digits` for `budgeted train`; it says when an update was made."""

import time

from budgeted.tasks.digits import Digits


class NotedDigits(Digits):
    """Nothing else is changed."""

    def optimizer(self, model):
        optimizer = super().optimizer(model)
        optimizer.register_step_post_hook(lambda *_: print("first update at", time.monotonic(), flush=True))
        return optimizer
