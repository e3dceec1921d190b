"""The command line: what it prints, how it ends, and that bad input is one line."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch

import tiny_task
from budgeted.cli.main import main
from budgeted.core.errors import BudgetError
from budgeted.core.record import RunFolder, Spec
from budgeted.core.trace import Trace
from budgeted.train import checkpoint

TINY = f"{tiny_task.__file__}:Tiny"
FAST = ("--precision", "float32", "--no-curve", "--deterministic")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}


@pytest.fixture
def budgeted(tmp_path, monkeypatch, capsys):
    """The command in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BUDGETED_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("budgeted.train.loop.process_age", lambda: 0.0)  # this process is that of all tests
    monkeypatch.setattr("budgeted.cli.train.process_age", lambda: 0.0)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit, match=r"^\d+$") as end:
            main(list(arguments))
        return (int(str(end.value)), *capsys.readouterr())

    return run


def process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "budgeted.cli.main", *arguments]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )


def error(outcome: tuple[int, str, str]) -> str:
    """The one line that bad input ends in."""
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    return err


def train(budgeted, *arguments: str) -> dict:
    code, out, err = budgeted("train", TINY, *FAST, "--json", *arguments)
    assert (code, err, out.count("\n")) == (0, "", 1)
    return json.loads(out)


# train


def test_json_has_what_is_promised(budgeted, tmp_path):
    result = train(budgeted, "--budget", "3ep", "--schedule", "cosine", "--seed", "5")
    assert (result["task"], result["schedule"], result["budget"], result["seed"]) == (TINY, "cosine", "3ep", 5)
    assert result["spent"].keys() >= {"steps", "samples", "seconds"}
    assert (result["spent"]["steps"], result["progress"], result["stopped_by"]) == (30, 1.0, "3ep")
    assert 0 < result["last_factor"] < 0.01
    assert result["metric"].keys() == {"name", "best", "final"}
    assert result["wall_seconds"] > 0
    folder = RunFolder.open(Path(result["run_dir"]))
    assert folder.spec == Spec(TINY, "3ep", "cosine", 5, True, "float32")
    assert folder.result == {"schema": 1, **result}
    assert {path.name for path in folder.path.iterdir()} == {
        "spec.json", "environment.json", "rows.jsonl", "trace.bin", "result.json", "best.safetensors", "last.pt",
        "previous.pt", "lock",
    }  # fmt: skip
    assert folder.read("environment")["packages"]["torch"].startswith("2.")


def test_the_summary_is_all_that_is_printed(budgeted):
    code, out, err = budgeted("train", TINY, *FAST, "--budget", "1ep", "--out", "out")
    assert (code, err) == (0, "")
    folder = next(Path("out").iterdir())
    assert out.endswith(f"run folder  {folder}\n")
    assert "1ep, ended by 1ep" in out


def test_a_curve_is_drawn(budgeted):
    assert budgeted("train", TINY, "--precision", "float32", "--budget", "1ep")[0] == 0
    assert next(Path("runs").glob("*/curve.png")).stat().st_size > 1000


def test_a_warm_up_is_part_of_the_schedule(budgeted):
    assert train(budgeted, "--budget", "3ep", "--warmup", "5%")["schedule"] == "warmup(5%, linear)"


def test_a_tasks_own_warm_up_is_taken_unless_another_is_given(budgeted, monkeypatch):
    Path("warm.py").write_text(
        f"import sys; sys.path.append({str(Path(tiny_task.__file__).parent)!r})\n"
        + "from tiny_task import Tiny\nclass Warm(Tiny):\n    warmup = '5 steps'\n"
    )
    for extra, schedule in (((), "warmup(5 steps, linear)"), (("--warmup", "3 steps"), "warmup(3 steps, linear)")):
        code, out, _ = budgeted("train", "warm.py:Warm", *FAST, "--json", "--budget", "2ep", *extra)
        assert code == 0
        assert json.loads(out)["schedule"] == schedule


def test_a_metric_that_is_nan_is_null_in_json(budgeted):
    Path("nan_metric.py").write_text(
        f"import sys; sys.path.append({str(Path(tiny_task.__file__).parent)!r})\n"
        + "from tiny_task import Tiny\nclass Nan(Tiny):\n    def evaluate(self, model, data):\n        return {'accuracy': float('nan')}\n"
    )
    code, out, _ = budgeted("train", "nan_metric.py:Nan", *FAST, "--json", "--budget", "2ep")
    assert code == 0
    assert json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["metric"]["best"] is None
    assert budgeted("train", "nan_metric.py:Nan", *FAST, "--budget", "2ep")[0] == 0


def test_a_nan_loss_ends_with_code_1_and_keeps_the_folder(budgeted):
    code, out, err = budgeted("train", TINY.replace(":Tiny", ":Explodes"), *FAST, "--budget", "5ep")
    assert (code, out) == (1, "")
    assert err == "error: the loss was nan at update 25; try a lower base rate, or a warm-up\n"
    assert next(Path("runs").glob("*/last.pt")).exists()


def test_embedded_digits_learn_in_a_real_process(tmp_path):
    done = process(tmp_path, "train", "--budget", "5ep", "--json")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    result = json.loads(done.stdout)
    assert result["metric"]["best"] > 0.9
    assert (Path(tmp_path) / result["run_dir"] / "curve.png").exists()


# Going on


@pytest.fixture
def stopped(budgeted, monkeypatch) -> str:
    """A run that was stopped by SIGTERM after update 20 of 50."""
    from budgeted.train.session import Session

    real = Session.update

    def update(session, *given):
        real(session, *given)
        if session.run.ledger.steps == 20:
            os.kill(os.getpid(), 15)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "update", update)
        code, _, err = budgeted("train", TINY, *FAST, "--budget", "5ep")
    assert code == 130
    folder = str(next(Path("runs").iterdir()))
    assert err == f"SIGTERM: stopped after update 20 and saved; go on with: budgeted train --resume {folder}\n"
    return folder


def resume(budgeted, folder: str, *arguments: str) -> dict:
    code, out, err = budgeted("train", "--resume", folder, "--no-curve", "--json", *arguments)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_stopped_run_goes_on(budgeted, stopped):
    assert resume(budgeted, stopped)["spent"]["steps"] == 50
    assert "is finished: its budget is spent; train anew" in error(budgeted("train", "--resume", stopped))
    assert "is finished" in error(budgeted("train", "--resume", stopped, "--extend", "--budget", "20ep"))


def test_auto_goes_on_with_the_unfinished_run_of_the_same_options(budgeted, stopped):
    arguments = ("train", TINY, *FAST, "--budget", "5ep", "--json", "--resume", "auto")
    result = json.loads(budgeted(*arguments)[1])
    assert (result["run_dir"], result["spent"]["steps"]) == (stopped, 50)
    assert json.loads(budgeted(*arguments)[1])["run_dir"] == f"{stopped}-2"
    assert json.loads(budgeted(*arguments, "--seed", "1")[1])["run_dir"] not in (stopped, f"{stopped}-3")


def weights(result: dict) -> dict[str, torch.Tensor]:
    return checkpoint.load(Path(result["run_dir"]) / "last.pt", torch.device("cpu"))["model"]


def test_a_time_driven_run_is_replayed_to_the_bit(budgeted, monkeypatch):
    train(budgeted, "--budget", "1ep")  # what only the first run imports is no matter of the budget
    recorded = train(budgeted, "--budget", "5s", "--schedule", "with(cosine, momentum=linear)", "--warmup", "0.3s")
    monkeypatch.setenv("TINY_SECONDS", "0.001")  # another pace changes nothing
    code, out, err = budgeted("train", "--replay", recorded["run_dir"], "--no-curve", "--json")
    assert (code, err) == (0, "")
    replayed = json.loads(out)
    assert replayed["spent"]["steps"] == recorded["spent"]["steps"]
    assert replayed["budget"] == f"{recorded['spent']['steps']} steps"
    assert replayed["last_factor"] == recorded["last_factor"]
    assert replayed["progress"] == 1.0
    once, again = weights(recorded), weights(replayed)
    assert once.keys() == again.keys()
    assert all(torch.equal(once[name], again[name]) for name in once)
    trace = [Trace.read(Path(result["run_dir"]) / "trace.bin") for result in (recorded, replayed)]
    assert list(trace[0]) == list(trace[1])


def test_what_cannot_be_replayed_is_refused(budgeted, stopped):
    assert "is unfinished; go on with it first" in error(budgeted("train", "--replay", stopped))
    resume(budgeted, stopped)
    assert "--budget does not go with --replay" in error(budgeted("train", "--replay", stopped, "--budget", "1ep"))
    (Path(stopped) / "trace.bin").unlink()
    assert "there is no trace at" in error(budgeted("train", "--replay", stopped))


@pytest.mark.parametrize("average", ["ema", "lawa(3, 0.1)"])
def test_the_average_of_the_weights_is_evaluated_beside_them(budgeted, average):
    result = train(budgeted, "--budget", "5ep", "--schedule", "const", "--average", average)
    rows = [row for row in RunFolder(Path(result["run_dir"])).rows() if "accuracy" in row]
    assert all("accuracy_average" in row for row in rows)
    kinds = ("", "_raw", "_average")
    assert result["final"].keys() == {f"{name}{kind}" for name in ("accuracy", "validation_loss") for kind in kinds}
    assert result["metric"]["final"] == max(result["final"][f"accuracy{kind}"] for kind in kinds)
    assert "accuracy_average" not in train(budgeted, "--budget", "5ep")["final"]


def test_the_same_budget_may_be_said_again(budgeted, stopped):
    assert resume(budgeted, stopped, "--budget", "5 ep")["spent"]["steps"] == 50


def test_another_budget_wants_to_be_meant(budgeted, stopped):
    said = error(budgeted("train", "--resume", stopped, "--budget", "10ep"))
    assert "made under budget '5ep' and is resumed under '10ep'" in said
    assert "add --extend or --shorten" in said
    assert resume(budgeted, stopped, "--budget", "10ep", "--extend")["spent"]["steps"] == 100
    assert RunFolder(Path(stopped)).budget == "10ep"


def test_the_direction_is_held_against_the_budgets(budgeted, stopped):
    assert "--shorten from '5ep' to '10ep' is no such change" in error(
        budgeted("train", "--resume", stopped, "--budget", "10ep", "--shorten")
    )
    assert "--extend from '5ep' to '4ep' is no such change" in error(
        budgeted("train", "--resume", stopped, "--budget", "4ep", "--extend")
    )


def test_a_shorter_budget(budgeted, stopped):
    result = resume(budgeted, stopped, "--budget", "30 steps", "--shorten")
    assert (result["spent"]["steps"], result["stopped_by"]) == (30, "30 steps")
    rows = {row["steps"]: row for row in RunFolder(Path(stopped)).rows()}
    assert rows[21]["factor"] == pytest.approx(0.6)  # where 20 of 50 had led


def test_a_budget_that_is_spent_already(budgeted, stopped):
    assert "'10 steps' is spent already" in error(
        budgeted("train", "--resume", stopped, "--budget", "10 steps", "--shorten")
    )
    assert resume(budgeted, stopped)["spent"]["steps"] == 50  # nothing was harmed


@pytest.mark.parametrize(
    "extra",
    [("digits",), ("--schedule", "cosine"), ("--seed", "0"), ("--deterministic",), ("--no-refresh",), ("--out", "x")],
)
def test_what_would_make_it_another_run_is_refused(budgeted, stopped, extra):
    option = extra[0] if extra[0].startswith("--") else "TASK"
    assert f"error: {option} does not go with --resume" in error(budgeted("train", "--resume", stopped, *extra))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("spec.json", b"{", "is damaged: it is not JSON"),
        ("spec.json", b'{"schema": 9}', "has schema 9, and this version reads up to 1; update budgeted"),
        ("spec.json", b'{"schema": 1, "task": 1, "budget": "1ep", "schedule": "linear"}', "its task is 1"),
        ("spec.json", None, "is not a run folder: it has no spec.json"),
        ("rows.jsonl", b'{"steps": 1}\n{"st\n{"steps": 2}\n', "is damaged at line 2"),
    ],
)
def test_a_damaged_run_folder_is_refused(budgeted, stopped, name, content, sentence):
    path = Path(stopped) / name
    path.unlink() if content is None else path.write_bytes(content)
    assert sentence in error(budgeted("train", "--resume", stopped))


def test_a_damaged_checkpoint_is_said_in_one_line_and_the_one_before_is_used(budgeted, stopped):
    (Path(stopped) / "last.pt").write_bytes(b"nonsense")
    code, out, err = budgeted("train", "--resume", stopped, "--no-curve", "--json")
    assert (code, json.loads(out)["spent"]["steps"]) == (0, 50)
    assert re.fullmatch(
        r"note: the checkpoint '.*last.pt' is damaged .*; the one before it is used, of update 10\n", err
    )


# Bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--budget", "45 mins or"), "a limit is missing after 'or'"),
        (("--budget", ""), "error: "),
        (("--budget", "10 parsecs"), "parsecs"),
        (("--budget", "-3ep"), "error: "),
        (("--budget", "inf ep"), "error: "),
        (("--budget", "1ms"), "nothing is left of it to train in"),
        (("--schedule", "liner"), "did you mean 'linear'?"),
        (("--schedule", "step("), "error: "),
        (("--schedule", "plateau(mode=min)"), "accuracy wants a maximum"),
        (("--warmup", "100ep", "--budget", "3ep"), "leaves nothing of budget '3ep' to decay over"),
        (("--warmup", "soon"), "error: "),
        (("--precision", "bf61"), "did you mean 'bf16'?"),
        (("--average", "emma"), "ema"),
        (("--save-every", "often"), "--save-every 'often' is not a time"),
        (("--device", "cudda"), "device 'cudda' cannot be used here"),
        (("--device", "cuda:99"), "device 'cuda:99' cannot be used here"),
        (("--seed", "-1"), "Invalid value for '--seed'"),
        (("--seed", "99999999999999999999"), "Invalid value for '--seed'"),
        (("--seed", "x"), "Invalid value for '--seed'"),
        (("--evaluations", "0"), "Invalid value for '--evaluations'"),
        (("--nonsense",), "No such option"),
        (("--extend",), "--extend goes with --resume RUN and a new --budget"),
        (("--shorten", "--budget", "3ep"), "--shorten goes with --resume"),
        (("--resume", "nowhere"), "there is no run folder at 'nowhere'"),
        (("--resume", "."), "is not a run folder"),
        (("--out", "a_file"), "cannot write to 'a_file'"),
        (("--out", "a_file/runs"), "cannot write to 'a_file/runs'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run_folder(budgeted, arguments, sentence):
    Path("a_file").write_text("")
    task = () if "--resume" in arguments else (TINY,)
    assert sentence in error(budgeted("train", *task, "--no-curve", *arguments))
    assert list(Path().glob("runs/*")) == []


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("digit", "did you mean 'digits'?"),
        ("nowhere.py:Task", "there is no file 'nowhere.py'"),
        ("no_such_module:Task", "ModuleNotFoundError"),
        (TINY + "X", "has no 'TinyX'"),
        (TINY.replace(":Tiny", ":Incomplete"), "lacks data, model, optimizer, loss, evaluate"),
        (TINY.replace(":Tiny", ":Demanding"), "cannot be made without arguments"),
    ],
)
def test_a_bad_task_is_one_line(budgeted, task, sentence):
    assert sentence in error(budgeted("train", task))
    assert list(Path().glob("runs/*")) == []


def test_missing_data_is_one_line(budgeted, monkeypatch):
    import torchvision

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    said = error(budgeted("train", "cifar10", "--data", "nowhere"))
    assert "CIFAR-10 is not in 'nowhere/cifar-10-batches-py' and could not be downloaded (no network)" in said
    assert os.listdir("runs") == []


def test_what_is_not_installed_is_one_line(budgeted, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "budgeted.report.style", raising=False)
    monkeypatch.delitem(sys.modules, "budgeted.report.schedules", raising=False)
    said = error(budgeted("schedule", "linear", "--plot", "x.png"))
    assert said == "error: this needs matplotlib, which is not installed: pip install 'budgeted[train]'\n"


def test_bad_input_in_a_real_process_shows_no_traceback(tmp_path):
    done = process(tmp_path, "train", "--budget", "45 mins or")
    assert "a limit is missing after 'or'" in error((done.returncode, done.stdout, done.stderr))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays_whole(budgeted, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        code, out, err = budgeted("train", TINY, *FAST, "--budget", "60ep", "--evaluations", "40", "--out", str(disk))
        assert (code, out) == (2, "")
        *notes, said = err.splitlines()  # training goes on to the end, and the last checkpoint is refused
        needed = r"is full: [\d.]+ (kB|bytes) were to be written, and [\d.]+ (kB|bytes) are free; free some space"
        for note in notes:
            assert re.match(rf"note: no checkpoint at update \d+: the disk of '.*' {needed}", note)
        assert re.match(rf"error: the disk of '.*' {needed}", said)
        folder = next(disk.iterdir())
        saved = checkpoint.load(folder / "last.pt", torch.device("cpu"))
        assert saved["run"]["ledger"]["spent"]["steps"] > 0
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
        assert len(list(RunFolder(folder).rows())) > 10
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# The live bar


def in_a_terminal(folder: Path, columns: int, *arguments: str) -> tuple[int, str]:
    """Exit code and all that a terminal of so many columns is sent."""
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover
        os.chdir(folder)
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(0, termios.TIOCSWINSZ, size)
        environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("COLUMNS", "LINES")} | {"TINY_SECONDS": "0.01"}
        os.execve(sys.executable, [sys.executable, "-m", "budgeted.cli.main", *arguments], environment)
    received = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        received += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), received.decode()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # the child execs at once
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_live_bar_shows_what_is_left(tmp_path, columns):
    code, sent = in_a_terminal(tmp_path, columns, "train", TINY, "--budget", "60 steps", *FAST)
    assert code == 0, sent
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", sent)
    bar, _, summary = plain.partition("  accuracy    ")
    assert re.search(r"\d+% .*\d+s left.*  loss \d", re.sub("\r+", "", bar))
    if columns == 120:
        assert re.search(r"p 0\.\d+  rate x0\.\d+", bar)
    assert "60 steps, ended by 60 steps" in summary
    assert all(len(line) <= columns for line in re.split(r"[\r\n]+", bar))


# schedule, budget, tasks, help


def test_schedule_at_json(budgeted):
    code, out, _ = budgeted("schedule", "linear", "step(2/3, 8/9)", "--at", "0,0.5,1", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["linear"] == [1.0, 0.5, 0.0]
    assert found["step(2/3, 8/9)"] == pytest.approx([1.0, 1.0, 0.01])


def test_schedule_lists_the_known_ones(budgeted):
    code, out, _ = budgeted("schedule")
    assert code == 0
    for name in ("const", "linear", "poly", "cosine", "htd", "step-d2", "exp.97", "sgdr-r1", "rex"):
        assert re.search(rf"^\s*{re.escape(name)} ", out, re.MULTILINE)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_schedule_plot(budgeted, ending):
    code, out, err = budgeted("schedule", "linear", "cosine", "--plot", f"s.{ending}")
    assert (code, out, err) == (0, "", f"drew s.{ending}\n")
    assert Path(f"s.{ending}").stat().st_size > 5000


def test_schedule_plots_all_of_them_without_a_warning(budgeted):
    assert budgeted("schedule", "--plot", "all.png") == (0, "", "drew all.png\n")


def test_schedule_convert(budgeted):
    Path("my_schedule.py").write_text("def halving(t):\n    return 0.5 ** (t / 30)\n")
    code, out, _ = budgeted("schedule", "--convert", "my_schedule.py:halving", "--horizon", "90", "--json")
    assert code == 0
    values = json.loads(out)["my_schedule.py:halving"]
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(0.125)


@pytest.mark.parametrize(
    "arguments",
    [
        ("liner",),
        ("linear", "--at", "2"),
        ("linear", "--at", "nan"),
        ("linear", "--at", "a,b"),
        ("plateau",),
        ("--convert", "nowhere.py:f"),
        ("--convert", "json:dumps"),
        ("linear", "--plot", "x.txt"),
        ("linear", "--plot", "missing/x.png"),
        ("linear", "--plot", "no_ending"),
    ],
)
def test_bad_schedules_are_one_line(budgeted, arguments):
    error(budgeted("schedule", *arguments))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2000 steps", ["2000 updates"]),
        ("5e6 samples", ["5e6 samples"]),
        ("1e9 tokens", ["1e9 tokens"]),
        ("45min", ["45min of running time"]),
        ("1h30m", ["1h30min of running time"]),
        ("2 gpuh", ["2h of running time on one device, 1h on 2, 30min on 4, 15min on 8"]),
        ("$20 at $2.5/h", ["buys 8h of running time"]),
        (
            "1e17 FLOP",
            ["1e17 floating-point operations, counted on the real update", "1d3h46min40s at a steady 1 TFLOP/s"],
        ),
        ("300 Wh", ["1.08e6 J by the device's own counter; 1h at a steady 300 W"]),
        ("10ep", ["known once the task is; give --task or --steps-per-epoch"]),
        ("5%", ["known once the task is"]),
        ("until 2099-12-01T08:00Z", ["until 2099-"]),
        (
            "until 2099-03-29T02:30 Europe/Berlin",
            ["02:30 is skipped on 2099-03-29, when the clocks go forward: 03:30 is meant"],
        ),
        ("10ep or 45min", ["45min of running time", "the first of them that is reached ends the run"]),
    ],
)
def test_budget_explains_each_unit(budgeted, text, parts):
    code, out, err = budgeted("budget", text)
    assert (code, err) == (0, "")
    assert out.startswith("understood as: ")
    assert all(part in out for part in parts), out


def test_budget_of_a_task(budgeted):
    code, out, _ = budgeted("budget", "5%", "--task", TINY)
    assert code == 0
    assert "full budget of" in out
    assert "5%: 10 updates" in out
    assert "30 updates" in budgeted("budget", "3ep", "--steps-per-epoch", "10")[1]


def no_counter(device):
    raise BudgetError("energy cannot be measured: none here")


@pytest.mark.parametrize(
    ("counter", "said"),
    [(lambda _: lambda: 0.0, "This machine has one"), (no_counter, "Here energy cannot be measured: none here\n")],
)
def test_an_energy_budget_says_whether_it_can_be_kept_here(budgeted, monkeypatch, counter, said):
    monkeypatch.setattr("budgeted.train.energy.meter", counter)
    assert said in budgeted("budget", "1 kWh")[1]


def test_an_energy_budget_is_explained_without_pytorch_too(budgeted, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, _ = budgeted("budget", "1 kWh")
    assert (code, "known once PyTorch is installed" in out) == (0, True)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # the child execs at once
def test_a_narrow_terminal_has_whole_words(tmp_path):
    code, sent = in_a_terminal(tmp_path, 40, "budget", "1e17 FLOP or 2 gpuh or $20 at $2.5/h or 10ep")
    assert code == 0
    assert all(len(line) <= 40 for line in sent.split("\r\n"))
    assert " 2 gpuh: 2h of running time on one device, 1h on 2, 30min on 4, 15min on 8 $20 at" in " ".join(sent.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("soon",), ("5%", "--task", "digit"), (), ("3ep", "--steps-per-epoch", "0"), ("5k steps",), ("until 2020-01-01T08:00",),
        ("10ep or until 2020-01-01T08:00Z",),
    ],
)  # fmt: skip
def test_bad_budgets_are_one_line(budgeted, arguments):
    error(budgeted("budget", *arguments))


def test_tasks_are_listed(budgeted):
    code, out, _ = budgeted("tasks")
    assert code == 0
    assert all(name in out for name in ("digits", "fashion-mnist", "cifar10", "cifar10-narrow", "200ep", "accuracy"))


@pytest.mark.parametrize("command", [(), ("train",), ("schedule",), ("budget",), ("tasks",)])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(budgeted, command, option):
    code, out, err = budgeted(*command, option)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: budgeted {' '.join(command)}".strip())


def test_the_bare_command_shows_help_and_the_version_is_the_packages(budgeted):
    import budgeted as package

    assert budgeted()[1] == budgeted("--help")[1]
    assert budgeted("--version")[1] == f"budgeted, version {package.__version__}\n"
    assert "did you mean" in error(budgeted("trian")).lower()


def test_a_reader_that_leaves_is_no_error(tmp_path):
    command = f"{sys.executable} -m budgeted.cli.main schedule --json | head -c 1"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("{", "")


# Probes, and schedules refined from another run


def test_probes_and_what_they_found_are_in_the_rows(budgeted):
    result = train(budgeted, "--budget", "6ep", "--probes", "3", "--probe-share", "0.9")
    rows = [json.loads(line) for line in Path(result["run_dir"], "rows.jsonl").read_text().splitlines()]
    assert [row["progress"] for row in rows if "full_gradient" in row] == pytest.approx([0.0, 0.5, 1.0], abs=0.1)
    assert "the full gradient's norm" in result["diagnosis"][0]


def test_the_diagnosis_is_part_of_the_summary(budgeted):
    _, out, _ = budgeted("train", TINY, *FAST, "--budget", "6ep", "--schedule", "const")
    assert "diagnosis   The rate reached 1 of its base" in out
    assert "give it a schedule that ends low, such as linear" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--probe-share", "0.1"), "--probe-share goes with --probes"),
        (("--free-probes",), "--free-probes goes with --probes"),
        (("--probes", "3", "--probe-share", "2"), "--probe-share is a share above 0 and up to 1, and is 2"),
        (("--probes", "1"), "Invalid value for '--probes'"),
        (("--schedule", "refined:nowhere"), "there is no run folder at 'nowhere'"),
        (("--schedule", "refined(liner)"), "did you mean 'linear'?"),
        (("--schedule", "refined(linear)"), "train that one first"),
        (("--schedule", "refined(linear)", "--warmup", "5%"), "stands alone, as in refined(linear)"),
        (("--schedule", "refined(refined(linear))"), "stands alone, as in refined(linear)"),
    ],
)
def test_probes_and_refined_schedules_that_cannot_be_had(budgeted, arguments, sentence):
    assert sentence in error(budgeted("train", TINY, *FAST, *arguments))


def test_a_schedule_is_refined_from_a_run_by_its_folder_or_by_its_options(budgeted):
    first = train(budgeted, "--budget", "10ep")
    named = train(budgeted, "--budget", "10ep", "--schedule", f"refined:{first['run_dir']}")
    found = train(budgeted, "--budget", "10ep", "--schedule", "refined(linear)")
    assert named["schedule"] == found["schedule"]
    code, out, _ = budgeted("schedule", f"refined:{first['run_dir']}", "--at", "1")
    assert (code, "0" in out) == (0, True)
