"""Unpacking of tar archives: unsafe members, truncated archives, and unpacking in parts."""

import io
import tarfile

import pytest

from gengeo_hf.acquire.unpack import Unpacked, unpack
from gengeo_hf.common.errors import GenGeoError
from tests.acquire.jz_city import tar

MEMBERS = {f"streetview/images/{index}.jpg": bytes([index]) * (100 + 700 * index) for index in range(6)}


def special(kind, name="streetview/a", target="/etc/passwd"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        tar({"../evil.jpg": b"x"}),
        tar({"/tmp/gengeo-evil.jpg": b"x"}),
        tar({"streetview/../../evil.jpg": b"x"}),
        tar({"streetview\\..\\evil.jpg": b"x"}),
        tar({"metadata/a.csv": b"x"}),
        special(tarfile.SYMTYPE),
        special(tarfile.LNKTYPE),
        special(tarfile.CHRTYPE),
        special(tarfile.FIFOTYPE),
    ],
)
def test_unpack_unsafe_member_raises_error_and_writes_nothing(tmp_path, content):
    with pytest.raises(GenGeoError, match="not a plain file under streetview"):
        unpack(io.BytesIO(content), tmp_path / "out", ["streetview"], "a.tar")
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("length", [0, 10, 700, 3000])
def test_unpack_truncated_archive_raises_error_and_leaves_no_partial_file(tmp_path, length):
    with pytest.raises(GenGeoError, match=r"a\.tar"):
        unpack(io.BytesIO(tar(MEMBERS)[:length]), tmp_path, ["streetview"], "a.tar")
    for path in tmp_path.rglob("*.jpg"):
        assert path.read_bytes() == MEMBERS[path.relative_to(tmp_path).as_posix()]


def test_unpack_in_parts_equals_unpack_at_once(tmp_path):
    content = tar(MEMBERS)
    found = Unpacked([])
    while not found.is_complete:
        stream = io.BytesIO(content[found.next_offset :])
        more = unpack(stream, tmp_path, ["streetview"], "a.tar", start=found.next_offset, most=2)
        found = Unpacked([*found.members, *more.members], more.next_offset, more.is_complete)
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.jpg")} == MEMBERS
    whole = unpack(io.BytesIO(content), tmp_path, ["streetview"], "a.tar")
    assert whole.members == found.members
    found.save(tmp_path / "record.parquet")
    assert Unpacked.load(tmp_path / "record.parquet") == found
    (tmp_path / "record.parquet").write_bytes(b"PAR1 damaged")
    assert Unpacked.load(tmp_path / "record.parquet") is None


def test_unpacked_record_finds_damaged_and_missing_files(tmp_path):
    record = unpack(io.BytesIO(tar(MEMBERS)), tmp_path, ["streetview"], "a.tar")
    assert not list(record.damaged(tmp_path))
    names = sorted(MEMBERS)
    (tmp_path / names[0]).unlink()
    content = (tmp_path / names[1]).read_bytes()
    (tmp_path / names[1]).write_bytes(content[:-1] + b"?")
    assert list(record.damaged(tmp_path)) == names[:2]
