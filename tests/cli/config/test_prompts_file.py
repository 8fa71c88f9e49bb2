"""Files of prompts: every line that is none is named with its number."""

from __future__ import annotations

import pytest

from posteriori.config.prompts_file import read_prompts
from posteriori.errors import DataError

GOOD = '{"prompt": "a b", "weight": 1}\n'
HINT = 'write one object per line, such as {"prompt": "..."}'

BROKEN = {
    "cut short": ('{"prompt": "c", "weight": 1', "expecting ',' delimiter at column 28; " + HINT),
    "no JSON": ("hello", "expecting value at column 1; " + HINT),
    "two on a line": (GOOD.strip() * 2, "extra data at column 31; " + HINT),
    "not a number": ('{"prompt": "c", "weight": NaN}', "NaN is no JSON number; mend that line"),
    "infinite": (
        '{"prompt": "c", "weight": -Infinity}',
        "-Infinity is no JSON number; mend that line",
    ),
    "too large": (
        '{"prompt": "c", "weight": 1e999}',
        "1e999 is too large for a number; mend that line",
    ),
    "a key twice": (
        '{"prompt": "c", "prompt": "d"}',
        "the key 'prompt' is there twice; mend that line",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_named(tmp_path, case):
    line, expected = BROKEN[case]
    path = tmp_path / "p.jsonl"
    path.write_text(GOOD + "\n" + line + "\n")
    with pytest.raises(DataError) as caught:
        read_prompts(path)
    assert str(caught.value) == f"{path}:3: not valid JSON: {expected}"


WRONG = {
    "no object": ("[1, 2]", 'the line is [1, 2], not an object; write {"prompt": "..."}'),
    "no prompt": (
        '{"promt": "c", "weight": 1}',
        "the row has no 'prompt'; rename its 'promt'",
    ),
    "nothing": ("{}", 'the row has no \'prompt\'; write {"prompt": "..."}'),
    "a number": (
        '{"prompt": 3, "weight": 1}',
        '\'prompt\' is 3; write a string, or messages such as [{"role": "user", "content": "..."}]',
    ),
    "messages without content": (
        '{"prompt": [{"role": "user"}], "weight": 1}',
        '\'prompt\' is [{"role": "user"}]; write a string, or messages such as '
        '[{"role": "user", "content": "..."}]',
    ),
    "a column less": (
        '{"prompt": "c"}',
        "the row has no 'weight', unlike the first row; give every row the same fields",
    ),
    "a column more": (
        '{"prompt": "c", "weight": 1, "more": 2}',
        "the row has a 'more', unlike the first row; give every row the same fields",
    ),
    "half a character": (
        '{"prompt": "\\ud800", "weight": 1}',
        "not valid text: half of a surrogate pair; remove that escape",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_row_that_is_no_prompt_is_named(tmp_path, case):
    line, expected = WRONG[case]
    path = tmp_path / "p.jsonl"
    path.write_text(GOOD + line + "\n")
    with pytest.raises(DataError) as caught:
        read_prompts(path)
    assert str(caught.value) == f"{path}:2: {expected}"


def test_a_column_may_not_take_an_argument_of_reward_functions(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "completions": 1}\n')
    with pytest.raises(DataError, match=r":1: a column cannot be called 'completions'"):
        read_prompts(path)


def test_nesting_too_deep_to_read_is_an_error_and_no_crash(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": ' + "[" * 200_000 + "\n")
    with pytest.raises(DataError, match=r":1: not valid JSON"):
        read_prompts(path)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"one\ntw\xffo\n")
    with pytest.raises(DataError, match=r"p\.txt:2: not UTF-8 text at byte 2"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["p.jsonl", "p.txt"])
def test_a_file_without_prompts(tmp_path, name):
    path = tmp_path / name
    path.write_text("\n\n")
    with pytest.raises(DataError, match="no prompts in the file; write one per line"):
        read_prompts(path)


def test_a_kind_of_file_that_is_not_read(tmp_path):
    path = tmp_path / "p.docx"
    path.write_text("a")
    with pytest.raises(DataError, match=r"cannot be read from a '\.docx' file; write \.jsonl"):
        read_prompts(path)


def test_rows_columns_and_conversations(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "a", "n": 1}\r\n\n'
        b'{"n": [2], "prompt": [{"role": "user", "content": "b"}]}'
    )
    data = read_prompts(path)
    assert data.prompts == ["a", [{"role": "user", "content": "b"}]]
    assert data.columns == {"n": [1, [2]]}


def test_a_line_separator_inside_a_string_does_not_end_the_line(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a\u2028b"}\n', encoding="utf-8")
    assert read_prompts(path).prompts == ["a\u2028b"]


def test_text_lines_keep_their_spaces(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"one \n\n two\r\n")
    assert read_prompts(path).prompts == ["one ", " two"]


def test_the_command_line_says_it_in_one_line(job, nothing_loads):
    job.write("prompts.jsonl", GOOD + '{"prompt": "c", "weight": \n')
    result = job.fit()
    assert result.code == 2
    assert result.error.startswith(f"{job.folder}/prompts.jsonl:2: not valid JSON: ")


def test_a_missing_file_of_prompts(job, nothing_loads):
    (job.folder / "prompts.jsonl").unlink()
    assert job.fit().error == (
        f"{job.folder}/prompts.jsonl: there is no such file of prompts; check 'prompts'"
    )
