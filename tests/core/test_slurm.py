"""The end of a SLURM job: each case against real processes that stand in for the scheduler's commands."""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
import time

import pytest

from budgeted.core import slurm
from budgeted.core.errors import BudgetError
from budgeted.core.slurm import job_end

END = dt.datetime(2026, 12, 1, 18, tzinfo=dt.UTC).timestamp()
SQUEUE, SCONTROL = "squeue -h -j 71 -o %e", "scontrol show job 71"
ISO = f"date -u -d @{END:.0f} +%Y-%m-%dT%H:%M:%S"


@pytest.fixture
def cluster(tmp_path):
    """Commands that are shell scripts, and the environment of a job in which they are found."""
    for needed in ("sh", "cat", "date", "sleep"):
        (tmp_path / needed).symlink_to(next(p for p in (f"/bin/{needed}", f"/usr/bin/{needed}") if os.path.exists(p)))

    def build(squeue: str | None = None, scontrol: str | None = None, **variables: str) -> dict[str, str]:
        for name, script in (("squeue", squeue), ("scontrol", scontrol)):
            if script is not None:
                path = tmp_path / name
                path.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/asked\n{script}\n')
                path.chmod(0o755)
        return {"PATH": str(tmp_path), "SLURM_JOB_ID": "71", **variables}

    return build


def asked(environ: dict[str, str]) -> list[str]:
    with open(f"{environ['PATH']}/asked", encoding="utf-8") as file:
        return file.read().splitlines()


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(BudgetError, match=r"45min|is asked") as caught:
        job_end(environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The variable


def test_the_variable_comes_first(cluster):
    environ = cluster("exit 1", "exit 1", SLURM_JOB_END_TIME="1796400000", SLURM_JOB_START_TIME="1796300000")
    assert job_end(environ) == 1796400000
    assert not os.path.exists(f"{environ['PATH']}/asked")


@pytest.mark.parametrize(
    "text", ["", "soon", "-5", "1e12", "nan", "inf", "1,5", "٣", "9" * 12, "9" * 400, "2026-12-01T18:00:00"]
)
def test_a_malformed_variable_is_refused_though_a_command_would_know(cluster, text):
    environ = cluster(ISO, SLURM_JOB_END_TIME=text)
    assert f"SLURM_JOB_END_TIME is '{text}', not seconds since 1970; unset it" in refusal(environ)


def test_an_end_that_has_passed_is_the_callers_to_judge():
    assert job_end({"SLURM_JOB_END_TIME": "1"}) == 1


def test_a_year_after_the_start_means_no_limit():
    """Where SLURM puts the end of an UNLIMITED job."""
    start = int(END)
    environ = {"SLURM_JOB_START_TIME": str(start), "SLURM_JOB_END_TIME": str(start + 365 * 86400)}
    assert "the job's time is unlimited" in refusal(environ)
    assert job_end(environ | {"SLURM_JOB_END_TIME": str(start + 364 * 86400)}) == start + 364 * 86400


# Whom to ask


def test_outside_a_job_nobody_is_asked(cluster):
    environ = cluster(ISO)
    del environ["SLURM_JOB_ID"]
    assert "SLURM_JOB_END_TIME is not set, nor is SLURM_JOB_ID; run inside a SLURM job, or give a time" in refusal(
        environ
    )


@pytest.mark.parametrize("job", ["", "-a", "71; rm", "seventy"])
def test_a_malformed_number_is_given_to_no_command(cluster, job):
    environ = cluster(ISO, SLURM_JOB_ID=job)
    assert f"SLURM_JOB_ID is '{job}', not a job's number" in refusal(environ)
    assert not os.path.exists(f"{environ['PATH']}/asked")


def test_the_old_name_of_the_number(cluster):
    environ = cluster(ISO, SLURM_JOBID="71")
    del environ["SLURM_JOB_ID"]
    assert job_end(environ) == END


def test_a_member_of_an_array_is_asked_for_by_its_index(cluster):
    """One member has the number of the whole array, under which squeue lists them all."""
    environ = cluster(ISO, SLURM_ARRAY_JOB_ID="70", SLURM_ARRAY_TASK_ID="4")
    assert job_end(environ) == END
    assert asked(environ) == ["squeue -h -j 70_4 -o %e"]


# squeue


def test_squeue_is_asked_as_documented_and_scontrol_not_at_all(cluster):
    environ = cluster(ISO, ISO)
    assert job_end(environ) == END
    assert asked(environ) == [SQUEUE]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "UTC"])
def test_the_zone_of_the_machine_and_of_its_format_do_not_matter(cluster, zone):
    """The commands print local time, and as SLURM_TIME_FORMAT says."""
    squeue = f'[ "$SLURM_TIME_FORMAT" = standard ] && date -d @{END:.0f} +%Y-%m-%dT%H:%M:%S'
    assert job_end(cluster(squeue, TZ=zone, SLURM_TIME_FORMAT="relative")) == END


def test_of_several_parts_the_first_to_end_counts(cluster):
    assert job_end(cluster("echo 2026-12-01T19:00:00\necho 2026-12-01T18:00:00")) == END


# scontrol, and what either may say

SHOWN = """cat <<'END'
JobId=71 JobName=train
   RunTime=00:10:00 TimeLimit=08:00:00 TimeMin=N/A
   StartTime=2026-12-01T10:00:00 EndTime={} Deadline=N/A
END"""


@pytest.mark.parametrize(
    ("squeue", "why"),
    [
        (None, "is not installed here"),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "failed (slurm_load_jobs error: Invalid job id specified)"),
        ("exit 3", "failed (exit code 3)"),
        ("echo N/A", "says 'N/A'"),
        ("echo NONE", "says 'NONE', as of a job of unlimited time"),
        ("echo Unknown", "says 'Unknown', as of a job of unlimited time"),
        ("echo UNLIMITED", "says 'UNLIMITED', as of a job of unlimited time"),
        ("echo 2026-12-01", "says '2026-12-01'"),
        ("echo 2026-12-01T18:00:00; echo N/A", "says 'N/A'"),
        ("printf '\\377\\n'", "says '\N{REPLACEMENT CHARACTER}'"),
        ("true", "names no end"),
    ],
)  # fmt: skip
def test_where_squeue_does_not_tell_scontrol_is_asked(cluster, squeue, why):
    assert job_end(cluster(squeue, SHOWN.format("2026-12-01T18:00:00"))) == END
    said = refusal(cluster(squeue, SHOWN.format("Unknown")))
    assert said == (
        f"the job's end is unknown: SLURM_JOB_END_TIME is not set; `{SQUEUE}` {why}; `{SCONTROL}` says 'Unknown', as of a "
        "job of unlimited time; give a time such as 45min, or a deadline such as 'until 18:00'"
    )


@pytest.mark.parametrize(
    ("scontrol", "why"),
    [(None, "is not installed here"), ("exit 1", "failed (exit code 1)"), ("echo JobId=71", "names no end")],
)
def test_where_neither_tells_both_are_named(cluster, scontrol, why):
    said = refusal(cluster(None, scontrol))
    assert f"`{SQUEUE}` is not installed here; `{SCONTROL}` {why};" in said


def test_a_command_that_may_not_be_run(cluster):
    environ = cluster(ISO, SHOWN.format("2026-12-01T18:00:00"))
    os.chmod(f"{environ['PATH']}/squeue", 0o644)
    os.chmod(f"{environ['PATH']}/scontrol", 0o644)
    assert f"`{SQUEUE}` cannot be run (Permission denied)" in refusal(environ)


def test_a_scheduler_that_does_not_answer_is_not_waited_for(cluster, monkeypatch):
    """Nor are the children of a wrapper script, which hold its output open."""
    monkeypatch.setattr(slurm, "_PATIENCE", 0.2)
    environ = cluster("sleep 600", "sleep 600 & wait")
    said = refusal(environ)
    assert re.findall(r"did not answer within 0\.2 s", said) == ["did not answer within 0.2 s"] * 2
    deadline = time.monotonic() + 5
    while sleepers(environ["PATH"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not sleepers(environ["PATH"])


def sleepers(path: str) -> list[str]:
    """Processes that the stand-ins started and that still run."""
    found = []
    for process in filter(str.isdecimal, os.listdir("/proc") if sys.platform == "linux" else []):
        try:
            with open(f"/proc/{process}/environ", "rb") as file:
                if f"PATH={path}\0".encode() in file.read():
                    found.append(process)
        except OSError:
            continue
    return found
