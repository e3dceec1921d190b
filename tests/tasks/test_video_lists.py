"""Which videos there are: class folders, official lists, lists of paths and labels, and what is wrong with them."""

from __future__ import annotations

import pytest

from budgeted import BudgetWarning, TaskError
from budgeted.tasks.video_lists import find


@pytest.fixture
def folder(tmp_path):
    """A folder to put files in; lists do not open videos, so that empty ones do."""

    class Folder:
        path = tmp_path

        def add(self, *names):
            for name in names:
                file = tmp_path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()

        def write(self, name, *lines):
            (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

        def names(self, videos):
            """What is where, below the folder."""
            names = [path.removeprefix(f"{tmp_path}/") for path in videos.paths]
            return list(zip(names, (videos.classes[label] for label in videos.labels), strict=True))

    return Folder()


HEAD = "label,youtube_id,time_start,time_end,split"


# Class folders


def test_class_folders(folder):
    folder.add("train/zumba/c.MKV", "train/abseiling/b.mp4", "train/abseiling/deep/a.webm", "val/zumba/d.avi")
    folder.add("train/abseiling/notes.txt", "train/abseiling/.hidden.mp4", "train/.cache/e.mp4", "val/abseiling/f.mp4")
    train = find(folder.path, "train")
    assert (train.classes, train.missing) == (("abseiling", "zumba"), 0)
    assert folder.names(train) == [
        ("train/abseiling/b.mp4", "abseiling"),
        ("train/abseiling/deep/a.webm", "abseiling"),
        ("train/zumba/c.MKV", "zumba"),
    ]
    assert folder.names(find(folder.path, "val", train.classes)) == [
        ("val/abseiling/f.mp4", "abseiling"),
        ("val/zumba/d.avi", "zumba"),
    ]


def test_class_folders_that_are_not_there_or_empty(folder):
    with pytest.raises(TaskError, match=r"there is neither a list '.*train.csv' or '.txt' nor a folder '.*train' with"):
        find(folder.path, "train")
    folder.add("train/stray.mp4")
    with pytest.raises(TaskError, match=r"train' has no folders; it is to hold one for each class"):
        find(folder.path, "train")
    folder.add("train/a/b.mp4", "train/void/notes.txt")
    with pytest.raises(
        TaskError, match=r"class folder '.*void' has no videos \(.3gp, .*.mp4.*\); fill it, or remove it"
    ):
        find(folder.path, "train")


def test_classes_that_only_one_part_has(folder):
    folder.add("val/a/1.mp4", "val/new/1.mp4")
    with pytest.raises(TaskError, match=r"val' has class 'new' \(1 such classes\), which has no training video"):
        find(folder.path, "val", ("a", "b"))
    with pytest.warns(BudgetWarning, match=r"val' has no video of 1 classes, such as 'b'"):
        assert find(folder.path, "val", ("a", "b", "new")).labels == (0, 2)


def test_the_first_ones_are_of_each_class_in_turn(folder):
    folder.add(*(f"train/{name}/{k}.mp4" for name in "abc" for k in range(3)))
    videos = find(folder.path, "train")
    assert folder.names(videos.first(4)) == [
        ("train/a/0.mp4", "a"),
        ("train/b/0.mp4", "b"),
        ("train/c/0.mp4", "c"),
        ("train/a/1.mp4", "a"),
    ]
    assert videos.first(None) is videos
    assert len(videos.first(100).paths) == 9


# Official lists


def test_an_official_list(folder):
    folder.add("train/abseiling/-3B32lodo2M_000059_000069.mp4", "train/0wR5jVB-WPk_000417_000427.mkv")
    folder.write("train.csv", HEAD, "abseiling,-3B32lodo2M,59,69,train", '"a, b",0wR5jVB-WPk,417,427,train')
    assert folder.names(find(folder.path, "train")) == [
        ("train/abseiling/-3B32lodo2M_000059_000069.mp4", "abseiling"),
        ("train/0wR5jVB-WPk_000417_000427.mkv", "a, b"),
    ]


def official(folder, *rows, there=9):
    """A list of ten videos, some of which are there, and the rows."""
    folder.add(*(f"val/{k}_000000_000010.mp4" for k in range(there)))
    folder.write("val.csv", HEAD, *(f"a,{k},0,10,validate" for k in range(10)), *rows)


def test_videos_that_are_gone_are_counted(folder):
    official(folder)
    with pytest.warns(
        BudgetWarning, match=r"1 of the 10 videos in '.*val.csv' are not there, such as 9_000000_000010; the others"
    ):
        videos = find(folder.path, "val")
    assert (len(videos.paths), videos.missing) == (9, 1)


def test_too_many_that_are_gone(folder):
    official(folder, there=7)
    with pytest.raises(
        TaskError, match=r"3 of the 10 videos in .* are not there, .*; at most a quarter may be missing"
    ):
        find(folder.path, "val")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("a,x,zero,10,val", r"line 12 of '.*val.csv' has no whole seconds as time_start and time_end"),
        ("a,x", r"line 12 of '.*val.csv' has no whole seconds"),
        (",x,0,10,val", r"line 12 of '.*val.csv' has no label; name a class, or take it out"),
        ("a,x,0,10,train", r"line 12 of '.*val.csv' is of split 'train'; move it to that one's list"),
    ],
)
def test_rows_that_are_wrong(folder, row, why):
    official(folder, row)
    with pytest.raises(TaskError, match=why):
        find(folder.path, "val")


def test_the_same_video_twice(folder):
    official(folder, there=10)
    folder.add("val/a/3_000000_000010.webm")
    with pytest.raises(TaskError, match=r"are the same video by their names; keep one"):
        find(folder.path, "val")


def test_lists_of_another_kind(folder):
    folder.write("train.csv", "train/a.mp4 0")
    with pytest.raises(TaskError, match=r"has no column 'label'; an official list begins with label,youtube_id,"):
        find(folder.path, "train")
    folder.write("train.txt", "train/a.mp4 0")
    with pytest.raises(TaskError, match=r"has both train.csv and train.txt; keep the one that is meant"):
        find(folder.path, "train")


# Lists of paths and labels


def test_a_list_of_paths_and_labels(folder):
    folder.add("some/a b.mp4", "c.mp4", "d.mp4")
    folder.write("train.txt", "some/a b.mp4 1", "", f"{folder.path}/c.mp4   0", "d.mp4 01")
    videos = find(folder.path, "train")
    assert videos.classes == ("0", "1")
    assert folder.names(videos) == [("some/a b.mp4", "1"), ("c.mp4", "0"), ("d.mp4", "1")]


def test_more_than_ten_classes_are_in_the_order_of_their_numbers(folder):
    folder.add("a.mp4")
    folder.write("train.txt", *(f"a.mp4 {k}" for k in range(12)))
    assert find(folder.path, "train").classes == tuple(map(str, range(12)))


@pytest.mark.parametrize("line", ["a.mp4", "a.mp4 -1", "a.mp4 1.5", "a.mp4 zumba", "7"])
def test_lines_that_are_wrong(folder, line):
    folder.add("a.mp4")
    folder.write("train.txt", "a.mp4 0", line)
    with pytest.raises(TaskError, match=rf"line 2 of '.*train.txt' is '{line}'; each is PATH LABEL"):
        find(folder.path, "train")


def test_labels_outside_the_range(folder):
    folder.add("a.mp4")
    folder.write("train.txt", "a.mp4 1", "a.mp4 2")
    with pytest.raises(
        TaskError, match=r"train.txt' has no video of class 0; number the 2 classes from 0, without gaps"
    ):
        find(folder.path, "train")
    folder.write("val.txt", "a.mp4 0", "a.mp4 7")
    with pytest.raises(TaskError, match=r"val.txt' has class '7' .*, which has no training video"):
        find(folder.path, "val", ("0", "1"))


def test_lists_that_are_empty_or_cannot_be_read(folder):
    folder.write("train.txt", "")
    with pytest.raises(TaskError, match=r"the list '.*train.txt' is empty"):
        find(folder.path, "train")
    (folder.path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaskError, match=r"cannot read the list '.*train.txt'"):
        find(folder.path, "train")
    (folder.path / "val.txt").mkdir()
    with pytest.raises(TaskError, match=r"cannot read the list '.*val.txt': .*directory"):
        find(folder.path, "val")
