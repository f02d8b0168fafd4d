"""A pickle of ground truth is read as data: what is plain comes through, and nothing in it runs."""

import collections
import datetime
import os
import pickle

import numpy as np
import pytest

from bob_jax.data.retrieval import safe_pickle
from bob_jax.errors import BobError


def dumped(tmp_path, value, protocol=None):
    file = tmp_path / "gnd.pkl"
    file.write_bytes(pickle.dumps(value, protocol))
    return file


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_come_through_whatever_the_protocol(tmp_path, protocol):
    value = {
        "imlist": ["a", "Größe 1"],
        "gnd": [{"bbx": [1.5, 2, 30.25, 40], "easy": np.arange(5), "none": None, "empty": np.empty(0, np.int64)}],
        "nested": (1, [True, b"raw"]),
        "grid": np.arange(12, dtype="<f4").reshape(3, 4),
        "turned": np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4)),
        "big": np.array([1, 2, 70000], ">i4"),
        "flags": np.array([True, False]),
        "scalar": np.float64(2.5),
        "index": np.int32(7),
    }
    read = safe_pickle.load(dumped(tmp_path, value, protocol))
    assert read["imlist"] == value["imlist"] and read["nested"] == value["nested"]
    assert read["gnd"][0]["bbx"] == [1.5, 2, 30.25, 40] and read["gnd"][0]["none"] is None
    assert read["scalar"] == 2.5 and read["index"] == 7
    for name in ("grid", "turned", "big", "flags"):
        np.testing.assert_array_equal(read[name], value[name])
        assert read[name].dtype == value[name].dtype
    np.testing.assert_array_equal(read["gnd"][0]["easy"], np.arange(5))
    assert read["gnd"][0]["empty"].shape == (0,)


def test_arrays_of_numpy_1_and_of_python_2_come_through(tmp_path):
    content = pickle.dumps({"easy": np.arange(3, dtype="<i8")}, 2)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core" in old
    file = tmp_path / "gnd.pkl"
    file.write_bytes(old)
    assert safe_pickle.load(file)["easy"].tolist() == [0, 1, 2]
    # Python 2 wrote the bytes of an array as a string.
    two = (
        b"\x80\x02}U\x04easycnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02i4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x01\x00\x00\x00\xff\xff\xff\xfftbs."
    )
    file.write_bytes(two)
    assert safe_pickle.load(file)["easy"].tolist() == [1, -1]


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch {}",), r"(posix|nt)\.system"),
        (eval, ("open('{}', 'w')",), r"_*builtins?_*\.eval"),
        (open, ("{}", "w"), r"\w+\.open"),
        (getattr, ([], "append"), r"_*builtins?_*\.getattr"),
        (np.load, ("{}",), r"numpy\.load"),
        (np.fromfile, ("{}",), r"numpy.*fromfile"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_with_code_in_it_is_refused_and_nothing_runs(tmp_path, function, arguments, named, protocol):
    mark = tmp_path / "ran"
    arguments = tuple(text.format(mark) if isinstance(text, str) else text for text in arguments)
    file = dumped(tmp_path, {"gnd": [Evil(function, *arguments)]}, protocol)
    with pytest.raises(
        BobError, match=rf"gnd.pkl is no pickle of plain data \(it asks for {named}, which is code"
    ) as e:
        safe_pickle.load(file)
    assert "\n" not in str(e.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        {"x": {1, 2}},
        {"x": datetime.date(2020, 1, 1)},
        {"x": collections.OrderedDict(a=1)},
        {"x": np.array([{}, None], object)},
        {"x": np.array(["a"])},
        {"x": np.zeros(2, [("a", "i4")])},
        {"x": 1j},
    ],
)
def test_other_kinds_of_data_are_refused(tmp_path, value):
    with pytest.raises(BobError, match="is no pickle of plain data"):
        safe_pickle.load(dumped(tmp_path, value))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle at all",
        pickle.dumps({"imlist": ["a"] * 50})[:-20],
        b"c_codecs\nencode\n(Vx\nVzlib\ntR.",  # another encoding than NumPy's arrays need
        b"c_codecs\nencode\n.",  # the function itself
        b"c_codecs\nencode\n}(Vfunction\nVx\nub.",  # changes a function
        b"c_codecs\nencode\nN}(Vfunction\nVx\nu\x86b.",
        b"cnumpy\ndtype\n(Vf8\ntR.",  # a type without an array
        b"cnumpy\ndtype\n(VO\ntR.",
        b"cnumpy\ndtype\n(I8\ntR.",
        b"cnumpy._core.multiarray\n_reconstruct\n(ttR(I1\n(I3\nttb.",
        b"\x80\x04]\x94h\x00a.",  # a list that holds itself
        b"P1\n.",  # persistent ids
    ],
)
def test_damaged_and_crafted_pickles_are_one_line(tmp_path, content):
    file = tmp_path / "gnd.pkl"
    file.write_bytes(content)
    with pytest.raises(BobError, match=r"gnd.pkl is no pickle of plain data .*fetch the official file") as error:
        safe_pickle.load(file)
    assert "\n" not in str(error.value)


def test_an_array_shorter_than_it_says_is_refused(tmp_path):
    content = pickle.dumps(np.arange(3, dtype="<i8"), 2)
    changed = content.replace(b"K\x03\x85", b"K\x05\x85")
    assert changed != content
    file = tmp_path / "gnd.pkl"
    file.write_bytes(changed)
    with pytest.raises(BobError, match=r"an array of shape \(5,\) has 3 numbers"):
        safe_pickle.load(file)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(BobError, match=r"cannot read .*gnd.pkl: No such file"):
        safe_pickle.load(tmp_path / "gnd.pkl")
