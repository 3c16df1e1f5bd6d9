"""Errors: a message and its parts."""

from __future__ import annotations

import pickle

import pytest

from flowreel.errors import InputError, MissingExtraError, require


def test_an_error_about_a_file_has_its_path_and_the_reason_apart():
    for error in (InputError("is empty", path="a.mp4"), MissingExtraError("is empty", path="a.mp4")):
        for copy in (error, pickle.loads(pickle.dumps(error))):  # as a worker process sends it
            assert (str(copy), copy.path, copy.reason) == ("a.mp4 is empty", "a.mp4", "is empty")


def test_without_a_path_the_reason_is_the_message():
    error = InputError("size must be 1 or more, not 0")
    assert (str(error), error.path, error.reason) == ("size must be 1 or more, not 0", None, str(error))


def test_a_missing_extra_says_what_to_install():
    with pytest.raises(MissingExtraError, match=r"pip install 'flowreel\[hub\]'"):
        require("no_such_package_here", "hub")
