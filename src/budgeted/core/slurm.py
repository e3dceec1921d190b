"""The end of the SLURM job around this process."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
from collections.abc import Mapping

from .errors import BudgetError

_PATIENCE = 10.0  # seconds for the scheduler to answer
_YEAR = 365 * 86400  # after its start SLURM puts the end of a job of unlimited time
_LAST = dt.datetime(9999, 1, 1, tzinfo=dt.UTC).timestamp()
_ADVICE = "give a time such as 45min, or a deadline such as 'until 18:00'"


class _NoAnswer(Exception):
    """Why a command of the scheduler told no end."""


def job_end(environ: Mapping[str, str]) -> float:
    """Seconds since 1970 at which the job ends.

    SLURM_JOB_END_TIME says it, which is set when the job starts. Versions of SLURM that do not set it are asked:
    `squeue -h -j ID -o %e`, else `scontrol show job ID`, each for ten seconds at most. Where `squeue` lists several
    parts of a job, the first end counts. An end that has passed is returned as it is.

    Args:
        environ: the environment of the process, by which the commands are found and run, too.

    Raises:
        BudgetError: outside a job, for a job of unlimited time, and where nothing tells the end: what was tried.

    >>> job_end({"SLURM_JOB_END_TIME": "1796400000"})
    1796400000.0
    """
    if "SLURM_JOB_END_TIME" in environ:
        return _from_variables(environ)
    job = _job(environ)
    tried = ["SLURM_JOB_END_TIME is not set"]
    for command, answer in (
        (("squeue", "-h", "-j", job, "-o", "%e"), r"\S+"),
        (("scontrol", "show", "job", job), r"\bEndTime=(\S+)"),
    ):
        try:
            return _earliest(re.findall(answer, _ask(command, environ)))
        except _NoAnswer as why:
            tried.append(f"`{' '.join(command)}` {why}")
    raise BudgetError(f"the job's end is unknown: {'; '.join(tried)}; {_ADVICE}")


def _from_variables(environ: Mapping[str, str]) -> float:
    end, start = environ["SLURM_JOB_END_TIME"], environ.get("SLURM_JOB_START_TIME", "")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", end) or float(end) >= _LAST:
        raise BudgetError(
            f"SLURM_JOB_END_TIME is '{end}', not seconds since 1970; unset it and the scheduler is asked, or {_ADVICE}"
        )
    if start.isdecimal() and float(end) - float(start) >= _YEAR:
        raise BudgetError(f"the job's time is unlimited (SLURM_JOB_END_TIME is a year after its start); {_ADVICE}")
    return float(end)


def _job(environ: Mapping[str, str]) -> str:
    """The job's number; a member of an array by array and index, since one of them has the number of the array."""
    job = environ.get("SLURM_JOB_ID", environ.get("SLURM_JOBID"))
    if job is None:
        raise BudgetError(f"SLURM_JOB_END_TIME is not set, nor is SLURM_JOB_ID; run inside a SLURM job, or {_ADVICE}")
    if "SLURM_ARRAY_JOB_ID" in environ and "SLURM_ARRAY_TASK_ID" in environ:
        job = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    if not re.fullmatch(r"[0-9]+(_[0-9]+)?", job):
        raise BudgetError(f"SLURM_JOB_END_TIME is not set, and SLURM_JOB_ID is '{job}', not a job's number; {_ADVICE}")
    return job


def _ask(command: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """What a command prints; its times in UTC, so that no summer time makes them ambiguous."""
    settings = {**environ, "TZ": "UTC0", "SLURM_TIME_FORMAT": "standard"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=settings,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise _NoAnswer("is not installed here") from None
    except OSError as error:
        raise _NoAnswer(f"cannot be run ({error.strerror})") from None
    with process:
        try:
            out, err = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a site's wrapper has children that would hold the pipe open
            raise _NoAnswer(f"did not answer within {_PATIENCE:g} s") from None
    if process.returncode:
        said = err.strip().splitlines() or [f"exit code {process.returncode}"]
        raise _NoAnswer(f"failed ({said[-1]})")
    return out


def _earliest(words: list[str]) -> float:
    if not words:
        raise _NoAnswer("names no end")
    return min(map(_moment, words))


def _moment(word: str) -> float:
    try:
        return dt.datetime.strptime(f"{word} +0000", "%Y-%m-%dT%H:%M:%S %z").timestamp()
    except ValueError:
        reason = ", as of a job of unlimited time" if word in ("NONE", "Unknown", "UNLIMITED") else ""
        raise _NoAnswer(f"says '{word}'{reason}") from None
