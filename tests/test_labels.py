"""Finding a set in its three layouts, and one clear line for every kind of bad label file."""

import subprocess

import pandas as pd
import pytest

from liveness.base.errors import UserError
from liveness.base.tables import read_table, table_text
from liveness.sets.labels import find_set, read_labels, set_name


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
        "FileName,LABEL\na.mp4,1\nb.mp4,0\n,\n , \n",
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
    "a word": ("fname,liveness_score\na.mp4,live\nb.mp4,Fake\n", "label 'live' of 'a.mp4'; its words ('Fake', 'live')"),
    "what to write": ("fname,liveness_score\na.mp4,live\n", "write 1 for a live video"),
    "semicolons": ("fname;liveness_score\na.mp4;1\n", "parted by semicolons, expected commas: tr ';' ,"),
    "decimal commas": ("fname;liveness_score\na.mp4;1,0\n", "parted by semicolons, expected commas"),
    "tabs": ("fname\tliveness_score\na.mp4\t1\n", "parted by tabs, expected commas: tr '\\t' ,"),
    "another case": ("fname,liveness_score\nA.mp4,1\n", "'A.mp4' is not there, but 'a.mp4' is there: upper and lower"),
    "another ending": ("fname,liveness_score\na.avi,1\n", "'a.mp4' is there: another ending"),
    "lost zeros": (
        "fname,liveness_score\n7.mp4,1\n8.mp4,0\n",
        "(and 1 more) is not there, but '007.mp4' is there: zeros",
    ),
    "a gif": ("fname,liveness_score\nc.gif,1\n", "'c.gif' is a GIF, which is not read; make a video of it"),
    "no video": ("fname,liveness_score\nd.txt,1\n", "is there as 'd.txt', whose ending is none of .mp4"),
    "two headers": ("fname,liveness_score,Subject,SUBJECT\na.mp4,1,x,x\n", "'Subject' and 'SUBJECT' are both subject"),
    "two kinds": ("fname,label,species\na.mp4,0,Print\nb.mp4,0,print\n", "'Print' and 'print' differ only by case"),
    "after a blank row": ("fname,liveness_score\na.mp4,1\n,\nb.mp4,2\n", "line 4: label '2'"),
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
    touch(workspace / "raw/s/videos", "a.mp4", "b.mp4", "007.mp4", "c.gif", "d.txt")
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


def test_names_without_an_ending_or_in_the_other_unicode_spelling_are_found(workspace):
    touch(workspace / "raw/s/videos", "1.mp4", "Nge\u0302\u0301.MOV", "x.y.mp4", "x.y.z.mp4")
    write(workspace / "raw/s/label.csv", "fname,liveness_score\n1,1\nNg\u1ebf,0\n x.y ,0\n")
    found = find_set("s")
    assert dict(zip(found.labels["filename"], found.labels["label"], strict=True)) == {
        "1.mp4": 1,
        "Nge\u0302\u0301.MOV": 0,
        "x.y.mp4": 0,
    }
    assert found.notes == ["label.csv names 3 videos without their ending: 1 is 1.mp4"]
    write(workspace / "raw/s/label.csv", "fname,liveness_score\n1,1\n1.mp4,0\n")
    with pytest.raises(UserError, match="'1' and '1.mp4' are one video"):
        find_set("s")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252"])
def test_the_command_that_is_told_for_another_encoding_mends_the_file(workspace, encoding):
    touch(workspace / "raw/s/videos", "André.mp4", "2.mp4")
    text = "fname,liveness_score\r\nAndré.mp4,1\r\n2.mp4,0\r\n"
    text = text if encoding == "cp1252" else text.replace(",", "\t")
    path = write(workspace / "raw/s/label.csv", text, encoding)
    with pytest.raises(UserError, match="in UTF-8") as caught:
        find_set("s")
    message = str(caught.value)
    assert ("Windows-1252" if encoding == "cp1252" else "UTF-16") in message and "\n" not in message
    command = message[message.index("iconv") :]
    subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], check=True, cwd=workspace)
    (workspace / "mended.csv").replace(path)
    assert list(find_set("s").labels["label"]) == [0, 1]


def test_a_set_may_be_given_as_the_path_of_its_folder(workspace, monkeypatch, capsys):
    touch(workspace / "raw/mine/videos", "1.mp4")
    touch(workspace / "elsewhere", "1.mp4")
    monkeypatch.chdir(workspace / "raw")
    for text in (
        "mine",
        "raw/mine",
        "mine/",
        "./mine",
        "data/mine/",
        str(workspace / "raw/mine"),
        "../raw/mine/videos",
    ):
        assert set_name(text) == "mine"
    assert set_name("raw/mine", say=True) == "mine" and capsys.readouterr().out == "raw/mine: the set mine\n"
    with pytest.raises(
        UserError, match="elsewhere' is not a plain file name.*ln -s .*; the sets that are there: raw/m"
    ):
        set_name("../elsewhere")
    with pytest.raises(UserError, match="no set 'mien'.*; the sets that are there: raw/mine; did you mean mine?"):
        find_set("mien")
