"""Finding a set in its three layouts, and one clear line for every kind of bad label file."""

import pandas as pd
import pytest

from liveness.data.labels import find_set, read_labels, read_table, table_text
from liveness.errors import UserError


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def test_raw_set_with_labels(workspace):
    touch(workspace / "raw/s/videos", "10.mp4", "2.mp4", "1.MOV", "notes.txt", ".hidden.mp4")
    write(workspace / "raw/s/label.csv", "fname,liveness_score,subject\n10.mp4,1,007\n1.MOV,0,NA\n2.mp4,0,\n")
    found = find_set("s")
    assert [path.name for path in found.videos] == ["1.MOV", "2.mp4", "10.mp4"]
    assert found.labels.to_dict("list") == {
        "filename": ["1.MOV", "2.mp4", "10.mp4"],
        "label": [0, 0, 1],
        "subject": ["NA", "", "007"],
    }
    assert found.unlabelled == []


@pytest.mark.parametrize("videos", ["train_video", "raw/train_video"])
def test_layout_of_the_published_solution(workspace, videos):
    touch(workspace / videos, "1.mp4", "2.mp4")
    write(workspace / "raw/label.csv", "fname,liveness_score\n1.mp4,1\n2.mp4,0\n")
    assert list(find_set("train").labels["label"]) == [1, 0]
    with pytest.raises(UserError, match="no set 'other'"):
        find_set("other")


def test_layout_of_the_baseline(workspace):
    touch(workspace / "data/train/videos", "1.mp4", "2.mp4")
    write(workspace / "data/train/labels.csv", "filename,label\n2.mp4,1\n1.mp4,0\n")
    assert list(find_set("train").labels["label"]) == [0, 1]


@pytest.mark.parametrize("folder", ["raw/public", "raw/public/videos"])
def test_sets_without_labels(workspace, folder):
    touch(workspace / folder, "1.mp4", "b c.mp4")
    found = find_set("public")
    assert found.labels is None and len(found.videos) == 2


def test_videos_without_a_label_are_named(workspace):
    touch(workspace / "raw/s/videos", "1.mp4", "2.mp4", "3.mp4")
    write(workspace / "raw/s/label.csv", "fname,liveness_score\n1.mp4,1\n2.mp4,0\n")
    assert find_set("s").unlabelled == ["3.mp4"] and len(find_set("s").videos) == 2


@pytest.mark.parametrize(
    "text",
    [
        "fname,liveness_score\na.mp4,1\nb.mp4,0\n",
        "\ufefffilename,label\r\na.mp4,1\r\nb.mp4,0\r\n",
        "label,filename,extra\n1.0,a.mp4,x\n 0 ,b.mp4,y\n",
        'fname , liveness_score\n"a.mp4",1\n"b.mp4",0\n',
    ],
)
def test_label_files_as_people_write_them(tmp_path, text):
    table = read_labels(write(tmp_path / "label.csv", text))
    assert list(table["filename"]) == ["a.mp4", "b.mp4"] and list(table["label"]) == [1, 0]


BAD = {
    "no columns": ("name,score\na.mp4,1\n", "expected fname,liveness_score"),
    "one column": ("fname\na.mp4\n", "expected fname,liveness_score"),
    "empty": ("", "empty"),
    "header only": ("fname,liveness_score\n", "no row"),
    "label 2": ("fname,liveness_score\na.mp4,2\n", "line 2: label '2'"),
    "no label": ("fname,liveness_score\na.mp4,\n", "line 2: label ''"),
    "a word": ("fname,liveness_score\na.mp4,live\n", "label 'live'"),
    "half": ("fname,liveness_score\na.mp4,0.5\n", "label '0.5'"),
    "twice": ("fname,liveness_score\na.mp4,1\nb.mp4,0\na.mp4,1\n", "line 4: 'a.mp4' is already in line 2"),
    "not there": ("fname,liveness_score\na.mp4,1\nc.mp4,0\n", "'c.mp4' is not there"),
    "outside": ("fname,liveness_score\n../a.mp4,1\n", "plain file name"),
    "absolute": ("fname,liveness_score\n/etc/passwd,1\n", "plain file name"),
    "no name": ("fname,liveness_score\n,1\n", "plain file name"),
    "ragged": ("fname,liveness_score\na.mp4,1\nb.mp4,0,x,y\n", "not a csv"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_label_files_are_one_line(workspace, case):
    text, expected = BAD[case]
    touch(workspace / "raw/s/videos", "a.mp4", "b.mp4")
    write(workspace / "raw/s/label.csv", text)
    touch(workspace / "raw/s", "a.mp4")
    with pytest.raises(UserError) as caught:
        find_set("s")
    assert expected in str(caught.value) and "label.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(workspace):
    touch(workspace / "raw/s/videos", "a.mp4")
    (workspace / "raw/s/label.csv").write_bytes(b"fname,liveness_score\n\xff\xfe\x00.mp4,1\n")
    with pytest.raises(UserError, match="not a csv file in UTF-8"):
        find_set("s")


def test_missing_and_empty_folders(workspace):
    with pytest.raises(UserError, match="no set 's'"):
        find_set("s")
    (workspace / "raw/s/videos").mkdir(parents=True)
    with pytest.raises(UserError, match="no video in it"):
        find_set("s")
    with pytest.raises(UserError, match="plain file name"):
        find_set("../s")


def test_two_videos_of_one_name(workspace):
    touch(workspace / "raw/s/videos", "a.mp4", "a.MOV")
    with pytest.raises(UserError, match="two videos with one name"):
        find_set("s")


def test_tables_keep_strings_and_round_trip(tmp_path):
    table = pd.DataFrame({"a": ["001", "NA", "", 'q"u,o', "ế"], "b": ["1.50", "nan", "None", " x ", "-"]})
    path = tmp_path / "t.csv"
    path.write_text(table_text(table), encoding="utf-8", newline="\n")
    assert read_table(path, ["a"]).to_dict("list") == table.to_dict("list")
    with pytest.raises(UserError, match="no column c"):
        read_table(path, ["a", "c"])
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "absent.csv", [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fname,liveness_score\n1.mp4,1\n2.mp4,0,extra\n", "more values|not a csv"),
        ("fname,liveness_score\n1.mp4,1,extra\n2.mp4,0\n", "more values|not a csv"),
        ("fname,liveness_score,label\n1.mp4,1,0\n2.mp4,0,0\n", "contradict each other"),
    ],
)
def test_rows_and_columns_that_contradict_the_header_are_refused(workspace, text, words):
    with pytest.raises(UserError, match=words):
        read_labels(write(workspace / "label.csv", text))
